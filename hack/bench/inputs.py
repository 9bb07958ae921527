"""Inputs for models that read images and hear sound, made from what is at hand: Python's own manual, photographs.

Text is rendered in real fonts on real photographs and spoken by a synthesizer; music is plucked strings. So the
inputs have the statistics their models were trained for, which noise has not: calibrated on noise, quantization
looks worse or better than it is.
"""

from __future__ import annotations

import ctypes
import re
from functools import cache
from math import ceil
from pydoc_data.topics import topics
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.signal import resample_poly
from sklearn.datasets import load_sample_images

from bench.wheels import unpacked

if TYPE_CHECKING:
    from PIL import Image, ImageFont

Array = np.ndarray[Any, Any]
Random = np.random.Generator

FONTS = ("DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSerif", "DejaVuSerif-Bold",
         "DejaVuSansMono", "STIXGeneral", "STIXGeneralBol", "STIXGeneralItalic", "cmr10", "cmss10")  # fmt: skip
SPEECH_HERTZ, MUSIC_HERTZ = 16_000, 22_050


@cache
def sentences() -> list[str]:
    """Some 2,000 English sentences of 20 to 100 characters, from the language reference inside Python."""
    text = " ".join(" ".join(topic.split()) for _, topic in sorted(topics.items()))
    found = (sentence.strip() for sentence in re.split(r"(?<=[.:;])\s", text))
    return sorted({one for one in found if 20 <= len(one) <= 100 and one.isascii() and one[0].isalpha()})


def words(rng: Random, count: int) -> str:
    """`count` words in a row of one sentence."""
    found = rng.choice(sentences()).split()
    start = rng.integers(max(1, len(found) - count + 1))
    return " ".join(found[start : start + count])


def line(rng: Random, height: int, width: int, degrees: int = 0) -> Image.Image:
    """A line of text that fills the height, on a piece of a photograph, as a text detector cuts it out; turned."""
    from PIL import Image, ImageDraw

    text, font = words(rng, int(rng.integers(1, 5))), _font(rng, int(height * rng.uniform(0.55, 0.85)))
    long = min(width, ceil(font.getlength(text)) + 8)
    image = _paper(rng, long, height)
    ink = _ink(rng, image)
    ImageDraw.Draw(image).text((4, height // 2), text, font=font, fill=ink, anchor="lm")
    whole = Image.new("RGB", (width, height))
    whole.paste(_camera(rng, image).rotate(degrees))
    return whole


def page(rng: Random, size: int) -> Image.Image:
    """A square photograph with a few lines of text of different sizes in it."""
    from PIL import ImageDraw

    image = _photo(rng, size, size)
    draw, top = ImageDraw.Draw(image), int(rng.integers(4, size // 4))
    while top < size - 30:
        font = _font(rng, int(rng.uniform(12, size / 10)))
        text, left = words(rng, int(rng.integers(1, 6))), int(rng.integers(4, size // 2))
        box = draw.textbbox((left, top), text, font=font)
        if rng.random() < 0.5:  # a sign
            draw.rectangle(box, fill=tuple(int(c) for c in rng.integers(0, 256, 3)))
        draw.text((left, top), text, font=font, fill=_ink(rng, image.crop(_inside(box, size))))
        top = int(box[3] + rng.uniform(4, size / 6))
    return _camera(rng, image)


@cache
def _photographs() -> list[Image.Image]:
    unpacked()
    from PIL import Image

    return [Image.fromarray(pixels) for pixels in load_sample_images().images]


def _photo(rng: Random, width: int, height: int) -> Image.Image:
    """A random piece of a photograph, at a random scale."""
    photographs = _photographs()
    whole = photographs[int(rng.integers(len(photographs)))]
    scale = rng.uniform(1, min(whole.width / width, whole.height / height, 4))
    wide, high = int(width * scale), int(height * scale)
    left, top = int(rng.integers(whole.width - wide + 1)), int(rng.integers(whole.height - high + 1))
    return whole.crop((left, top, left + wide, top + high)).resize((width, height))


def _paper(rng: Random, width: int, height: int) -> Image.Image:
    from PIL import Image

    plain = Image.new("RGB", (width, height), tuple(int(c) for c in rng.integers(0, 256, 3)))
    return Image.blend(plain, _photo(rng, width, height), rng.uniform(0, 0.4))


def _ink(rng: Random, behind: Image.Image) -> tuple[int, int, int]:
    """A colour that can be read on what is behind it."""
    dark = np.asarray(behind).mean() > 127
    low, high = (0, 70) if dark else (185, 256)
    red, green, blue = (int(c) for c in rng.integers(low, high, 3))
    return red, green, blue


def _font(rng: Random, size: int) -> ImageFont.FreeTypeFont:
    from PIL import ImageFont

    folder = unpacked() / "matplotlib/mpl-data/fonts/ttf"
    return ImageFont.truetype(folder / f"{rng.choice(FONTS)}.ttf", max(size, 8))


def _inside(box: tuple[float, float, float, float], size: int) -> tuple[int, int, int, int]:
    left, top, right, bottom = (min(max(int(edge), 0), size) for edge in box)
    return left, top, max(right, left + 1), max(bottom, top + 1)


def _camera(rng: Random, image: Image.Image) -> Image.Image:
    """A little blur and noise."""
    from PIL import Image, ImageFilter

    blurred = image.filter(ImageFilter.GaussianBlur(rng.uniform(0, 0.8)))
    noisy = np.asarray(blurred, np.float32) + rng.normal(0, rng.uniform(0, 8), (image.height, image.width, 1))
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def melody(rng: Random, samples: int) -> Array:
    """Float32 [samples] of plucked strings at 22,050 Hz, up to three at a time (Karplus and Strong, 1983)."""
    sound = np.zeros(samples)
    for _ in range(int(rng.integers(4, 12))):
        start = int(rng.integers(samples - 2048))
        period = MUSIC_HERTZ / (440 * 2 ** ((rng.integers(40, 84) - 69) / 12))
        sound[start:] += rng.uniform(0.2, 1) * _pluck(rng, period, samples - start)
    sound += rng.normal(0, rng.uniform(0, 0.01), samples)
    loudness: float = np.abs(sound).max() / rng.uniform(0.3, 0.95)
    return np.asarray(sound / loudness, np.float32)


def _pluck(rng: Random, period: float, samples: int) -> Array:
    """A burst of noise that runs around a delay line and loses its high tones: y[n] = (y[n-p] + y[n-p-1]) / 2."""
    from scipy.signal import lfilter

    delay = round(period)
    burst = np.zeros(samples)
    burst[:delay] = rng.uniform(-1, 1, min(delay, samples))
    loss = rng.uniform(0.985, 0.999) / 2
    feedback: Array = lfilter([1.0], [1.0, *np.zeros(delay - 1), -loss, -loss], burst)
    return feedback


def speech(text: str, voice: str, words_per_minute: int) -> Array:
    """Float32 at 16,000 Hz of eSpeak saying the text."""
    library = _espeak()
    heard: list[Array] = []

    def hear(samples: Any, count: int, _events: Any) -> int:
        if count > 0:
            heard.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0

    callback = _HEAR(hear)  # named, or it is collected while eSpeak still calls it
    library.espeak_SetSynthCallback(callback)
    library.espeak_SetVoiceByName(voice.encode())
    library.espeak_SetParameter(1, words_per_minute, 0)
    said = text.encode() + b"\0"
    library.espeak_Synth(said, len(said), 0, 0, 0, 1, None, None)
    whole = np.concatenate(heard).astype(np.float32) / 2**15
    return np.asarray(resample_poly(whole, SPEECH_HERTZ, MUSIC_HERTZ), np.float32)  # eSpeak speaks at 22,050 Hz


_HEAR = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


@cache
def _espeak() -> ctypes.CDLL:
    """The library, ready to hand samples to a callback instead of to a loudspeaker."""
    unpacked()
    import espeakng_loader

    library = ctypes.CDLL(espeakng_loader.get_library_path())
    synchronous = 2
    hertz = library.espeak_Initialize(synchronous, 0, espeakng_loader.get_data_path().encode(), 0)
    if hertz != MUSIC_HERTZ:
        raise OSError(f"eSpeak speaks at {hertz} Hz, not {MUSIC_HERTZ}")
    return library
