"""Writes the small pictures of this folder and formats.json, with Pillow 13.

Each picture is a crop of coffee.jpg (CC0-1.0, Rachel Michetti, from scikit-image), saved in one of
the variants of a format. formats.json holds the sha256 of the pixels that Pillow reads back as RGB.
"""
import hashlib
import json
import pathlib

from PIL import Image

HERE = pathlib.Path(__file__).parent
source = Image.open(HERE.parent / "images/coffee_422_odd.jpg").convert("RGB").crop((40, 30, 107, 73))
alpha = source.copy()
alpha.putalpha(source.convert("L"))

PICTURES = {
    "rgb.bmp": (source, {}),
    "palette.bmp": (source.quantize(64), {}),
    "grey.bmp": (source.convert("L"), {}),
    "onebit.bmp": (source.convert("1"), {}),
    "rgb.tif": (source, {}),
    "rgb_lzw.tif": (source, {"compression": "tiff_lzw"}),
    "rgb_deflate.tif": (source, {"compression": "tiff_adobe_deflate"}),
    "rgb_packbits.tif": (source, {"compression": "packbits"}),
    "grey.tif": (source.convert("L"), {}),
    "onebit.tif": (source.convert("1"), {}),
    "rgba.tif": (alpha, {}),
    "turned.tif": (source, {"tiffinfo": {274: 6}}),
    "lossless.webp": (source, {"lossless": True}),
    "alpha.webp": (alpha, {"lossless": True, "exact": True}),
    "grey_alpha.png": (alpha.convert("LA"), {}),
    "interlaced.gif": (source.quantize(32), {"interlace": 1}),
    "progressive.jpg": (source, {"progressive": True, "quality": 80}),
    "restart.jpg": (source, {"quality": 80, "restart_marker_rows": 1}),
    "cmyk.jpg": (source.convert("CMYK"), {"quality": 90}),
    "grey.jpg": (source.convert("L"), {"quality": 80}),
}

manifest = {}
for name, (picture, options) in PICTURES.items():
    picture.save(HERE / name, **options)
    pixels = Image.open(HERE / name).convert("RGB")
    manifest[name] = {
        "size": list(pixels.size),
        "rgb_sha256": hashlib.sha256(pixels.tobytes()).hexdigest(),
    }
(HERE / "formats.json").write_text(json.dumps(manifest, indent=1) + "\n")

# Every filter, smaller, larger and both: resized.json holds the sha256 of Pillow's pixels.
resized = []
picture = Image.open(HERE.parent / "images/coffee_progressive.jpg").convert("RGB")
for number in range(6):
    for size in [(224, 224), (61, 37), (40, 399), (599, 20), (700, 450), (600, 100)]:
        pixels = picture.resize(size, resample=number)
        resized.append({
            "resample": number,
            "size": size,
            "rgb_sha256": hashlib.sha256(pixels.tobytes()).hexdigest(),
        })
(HERE / "resized.json").write_text(json.dumps(resized, indent=1) + "\n")
