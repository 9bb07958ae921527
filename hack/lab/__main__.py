"""The lab's command line: `PYTHONPATH=hack python -m lab COMMAND`."""

import argparse
import sys
import time

from lab import cluster, images, paths, tools
from lab.shell import LabError


def main() -> int:
    """Do one thing, and turn an error into its one line."""
    arguments = _parser().parse_args()
    try:
        arguments.run(arguments)
    except LabError as error:
        print(f"lab: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m lab", description="A real Kubernetes cluster on this machine.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    build = commands.add_parser("tools", help="build the programs that are missing")
    build.add_argument("names", nargs="*", default=list(tools.TOOLS), metavar="NAME")
    build.set_defaults(run=lambda given: tools.build(given.names))
    missing = commands.add_parser("missing", help="name the programs that `tools` would build")
    missing.set_defaults(run=lambda _: print("\n".join(tools.missing())))
    up = commands.add_parser("up", help="start the cluster, or what of it is not running")
    up.add_argument("--no-node", dest="node", action="store_const", const=False, help="only the control plane")
    up.set_defaults(run=_up)
    commands.add_parser("down", help="end the cluster and remove every trace of it").set_defaults(run=_down)
    commands.add_parser("status", help="show what is up").set_defaults(run=_status)
    image = commands.add_parser("images", help="build the project's images and load them into the node")
    image.add_argument("targets", nargs="*", default=list(images.TARGETS), metavar="TARGET")
    image.add_argument("--name", default=images.NAME, help="how images are called (default: %(default)s)")
    image.set_defaults(run=lambda given: images.build(*given.targets, name=given.name))
    return parser


def _up(given: argparse.Namespace) -> None:
    begun = time.monotonic()
    kubeconfig = cluster.up(given.node)
    what = "control plane and a node" if cluster.has_node() else "CONTROL PLANE ONLY, no node: no pod will run"
    print(f"up in {time.monotonic() - begun:.1f} s: {what}, in {paths.state()}")
    print(f"export KUBECONFIG={kubeconfig}")


def _down(_: argparse.Namespace) -> None:
    print(f"down: {paths.state()} is gone" if cluster.down() else f"nothing is up in {paths.state()}")


def _status(_: argparse.Namespace) -> None:
    lines = list(cluster.status())
    print("\n".join(lines) or f"nothing is up in {paths.state()}")
    if any(" DEAD " in line for line in lines):
        raise LabError("not all is well; python -m lab up starts what is dead")


if __name__ == "__main__":
    sys.exit(main())
