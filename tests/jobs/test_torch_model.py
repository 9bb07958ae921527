"""PyTorch models from a user's files to a folder and back."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from networks import HEAD, PLAIN, empty, import_network, source, write_user_files
from trimtab_jobs.errors import InvalidInput
from trimtab_jobs.model import open_model
from trimtab_jobs.torch_model import import_source, load, outputs, save, to_tensors

IMAGE = torch.rand((3, 1, 8, 8), generator=torch.Generator().manual_seed(0))


def answer(module: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return outputs(module, [IMAGE])[0]


def test_a_users_files_become_a_model_that_answers_the_same(tmp_path: Path) -> None:
    weights, code = write_user_files(tmp_path / "user")
    model = import_source(source(), weights, code, empty(tmp_path / "model"))
    namespace: dict[str, Callable[[], torch.nn.Module]] = {}
    exec(code.read_text(), namespace)
    theirs = namespace["build"]().eval()
    theirs.load_state_dict(load_file(weights))
    assert torch.equal(answer(load(open_model(model.folder))), answer(theirs))
    assert not load(model).training


def test_loading_leaves_no_trace(tmp_path: Path) -> None:
    """No bytecode in the folder, whose digest names the model, and nothing that another `net.py` could meet."""
    path = list(sys.path)
    model = import_network(tmp_path)
    load(model)
    files = {str(file.relative_to(model.folder)) for file in model.folder.rglob("*") if file.is_file()}
    assert files == {"model.json", "weights.safetensors", "code/net.py"}
    assert "net" not in sys.modules
    assert sys.path == path


def test_two_models_with_modules_of_the_same_name_do_not_meet(tmp_path: Path) -> None:
    wide = PLAIN.replace("16", "24")
    first, second = import_network(tmp_path / "first"), import_network(tmp_path / "second", wide)
    assert [load(model)[0][0].out_channels for model in (first, second, first)] == [16, 24, 16]


def test_code_may_define_dataclasses(tmp_path: Path) -> None:
    """They look up their module in sys.modules, as typing and inspect do."""
    plain = "from dataclasses import dataclass\n\n@dataclass\nclass Width:\n    value: int\n" + PLAIN
    load(import_network(tmp_path, "from __future__ import annotations\n" + plain))


def test_the_factory_may_be_installed_and_have_no_code(tmp_path: Path) -> None:
    save_file({}, tmp_path / "w.safetensors")
    model = import_source(source("torch.nn:Flatten"), tmp_path / "w.safetensors", None, empty(tmp_path / "model"))
    assert answer(load(model)).shape == (3, 64)


def test_tied_weights_which_safetensors_writes_once(tmp_path: Path) -> None:
    code = HEAD + (
        "def build():\n"
        "    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.Linear(64, 64))\n"
        "    net[2].weight = net[1].weight\n"
        "    return net\n"
    )
    model = import_network(tmp_path, code)
    assert len(load_file(model.weights)) == 3
    module = load(model)
    assert module[1].weight is module[2].weight
    saved = save(module, model, empty(tmp_path / "saved"))
    assert torch.equal(answer(load(saved)), answer(module))


def test_a_changed_module_is_saved_with_what_changed(tmp_path: Path) -> None:
    model = import_network(tmp_path)
    module = load(model)
    with torch.no_grad():
        module[3].weight = torch.nn.Parameter(module[3].weight[:2])
        module[3].bias = torch.nn.Parameter(module[3].bias[:2])
    module[3].out_features = 2
    saved = save(module, model, empty(tmp_path / "saved"))
    assert saved.details["sizes"] == {"3": {"out_features": 2}}
    assert saved.details["shapes"] == {"3.weight": [2, 128], "3.bias": [2]}
    again = load(open_model(saved.folder))
    assert torch.equal(answer(again), answer(module))
    assert again[3].out_features == 2
    assert save(again, saved, empty(tmp_path / "again")).details == saved.details


def test_saving_twice_writes_the_same_bytes(tmp_path: Path) -> None:
    model = import_network(tmp_path)
    first, second = (save(load(model), model, empty(tmp_path / name)) for name in ("first", "second"))
    assert first.weights.read_bytes() == second.weights.read_bytes()


def _truncate(weights: Path, _: Path) -> None:
    weights.write_bytes(weights.read_bytes()[:-100])


def _pickle(weights: Path, _: Path) -> None:
    weights.write_bytes(pickle.dumps({"0.0.weight": [1.0]}))


def _change_tensors(change: Callable[[dict[str, torch.Tensor]], None]) -> Callable[[Path, Path], None]:
    def apply(weights: Path, _: Path) -> None:
        tensors = load_file(weights)
        change(tensors)
        save_file(tensors, weights)

    return apply


def _code(text: str) -> Callable[[Path, Path], None]:
    return lambda _, code: (code.write_text(text), None)[1]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda weights, _: weights.unlink(), r"model.uri: \S+weights.safetensors: there is no such file"),
        (_truncate, r"model.uri: \S+: not a safetensors file, or a truncated one \(.*\): write it with"),
        (_pickle, r"not a safetensors file"),
        (lambda _, code: code.unlink(), r"model.code: \S+net.py: there is no such file"),
        (_code("def build(:"), r"model.factory net:build: SyntaxError: invalid syntax"),
        (_code("import nowhere"), r"model.factory net:build: ModuleNotFoundError: No module named 'nowhere'"),
        (_code("x = 1"), r"model.factory net:build: AttributeError: .* has no attribute 'build'"),
        (_code("import sys; sys.exit(3)"), r"model.factory net:build: SystemExit: 3"),
        (_code("def build(width): ..."), r"net:build: TypeError: build\(\) missing 1 required positional argument"),
        (_code("def build(): return 3"), r"net:build returned int: it must build and return a torch.nn.Module"),
        (_change_tensors(lambda t: t.pop("3.bias")), r"do not fit model.factory net:build \(missing: 3.bias\)"),
        (_change_tensors(lambda t: t.update(extra=torch.ones(1))), r"\(unexpected: extra\)"),
        (
            _change_tensors(lambda t: t.update({"3.bias": torch.ones(5)})),
            r"shapes: 3.bias \[5\] instead of \[4\]",
        ),
        (_change_tensors(lambda t: t.clear()), r"missing: 0.0.weight, 0.1.weight, 0.1.bias and \d+ more\)"),
    ],
)
def test_what_is_wrong_is_said_in_one_line_and_nothing_is_written(
    tmp_path: Path, spoil: Callable[[Path, Path], None], message: str
) -> None:
    weights, code = write_user_files(tmp_path / "user")
    spoil(weights, code)
    out = empty(tmp_path / "model")
    with pytest.raises(InvalidInput, match=message) as refusal:
        import_source(source(), weights, code, out)
    assert "\n" not in str(refusal.value)
    assert list(out.iterdir()) == []


def test_a_module_that_is_not_installed_says_how_to_give_it(tmp_path: Path) -> None:
    weights, _ = write_user_files(tmp_path / "user")
    with pytest.raises(InvalidInput, match=r"No module named 'net': install its module, or name .* model.code"):
        import_source(source(), weights, None, empty(tmp_path / "model"))


class Two(torch.nn.Module):
    def forward(self, left: torch.Tensor, right: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
        return left - right * scale


def test_arrays_go_where_forward_wants_them() -> None:
    one, two = np.ones((2, 3), np.float32), np.zeros((2, 3), np.float32)
    assert list(to_tensors(Two(), {"right": two, "left": one})) == ["left", "right"]
    assert list(to_tensors(torch.nn.Identity(), {"whatever": one})) == ["whatever"]
    with pytest.raises(InvalidInput, match=r"arrays left, up are not what forward\(left, right, scale\) takes first"):
        to_tensors(Two(), {"left": one, "up": two})
