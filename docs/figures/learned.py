"""What the weights make of a picture: the first layer's kernels, and feature maps of a photograph at every stage.

Each picture names the weights it was drawn with.
"""

import textwrap

import matplotlib.pyplot as plt
import numpy as np

from common.plot_style import RED, WIDTH
from common.versions import load_version
from docs.figures.convolution import CAT, draw_kernel

REMEDY = "After `make weights`, `make figures` draws what training has found."
DEMO = "our own small demo model: 200 classes, trained on pictures of 64x64"
SIDE = 224  # pixels of the photograph: smaller ones leave too little of the late maps to see
MAPS = 8  # feature maps shown of each stage


def sign(figure, manifest, y):
    """Write at the bottom of a picture where the weights come from."""
    source, colour = manifest["source"], "black"
    text = f"Weights: {DEMO if source == 'demo' else source}."
    if source.startswith("synthetic"):
        text, colour = f"RANDOM WEIGHTS ({source}): nothing here was learned. {REMEDY}", RED
    figure.text(0.5, y, "\n".join(textwrap.wrap(text, 100)), ha="center", va="bottom", size=9, color=colour)


def filters(weights_file):
    """All 64 kernels of conv1, 7 x 7 pixels of three colours, each scaled to its own largest number."""
    version = load_version("v2_vectorized")
    manifest = version.weights.read_manifest(weights_file)
    kernels = version.weights.WeightFile(weights_file)["conv1.weight"]
    figure, panels = plt.subplots(4, 16, figsize=(WIDTH, 2.85))
    figure.subplots_adjust(left=0.005, right=0.995, top=0.9, bottom=0.15, hspace=0.08, wspace=0.08)
    for kernel, axes in zip(kernels, panels.flat):
        draw_kernel(axes, kernel)
    figure.suptitle("The 64 kernels of conv1, 7×7 pixels of red, green and blue; gray is zero", size=10, y=0.985)
    sign(figure, manifest, 0.015)
    return figure


def feature_maps(weights_file):
    """Feature maps of the photograph after each stage: the channels that vary most."""
    version = load_version("v3_preload")
    manifest = version.weights.read_manifest(weights_file)
    preprocessing = manifest["preprocessing"]
    factor = max(1, SIDE / preprocessing["crop"])
    preprocessing |= {key: round(factor * preprocessing[key]) for key in ("resize", "crop")}
    image = version.image.load_image(CAT, preprocessing)
    stages = {}
    model = version.resnet50.ResNet50(weights_file, image_size=image.shape[0])
    model.forward(image, probe=stages.__setitem__)
    stages.pop("avgpool")
    figure, panels = plt.subplots(len(stages), MAPS, figsize=(WIDTH, 6.0))
    figure.subplots_adjust(left=0.105, right=0.995, top=0.95, bottom=0.075, hspace=0.05, wspace=0.05)
    for (name, activation), row in zip(stages.items(), panels):
        label = "{}\n{}×{}\n×{}".format(name, *activation.shape)
        row[0].text(-0.08, 0.5, label, transform=row[0].transAxes, ha="right", va="center", size=9)
        most_varied = np.argsort(activation.std(axis=(0, 1)), kind="stable")[-MAPS:]
        for channel, axes in zip(np.sort(most_varied), row):
            axes.imshow(activation[..., channel], cmap="viridis", interpolation="nearest")
            axes.axis("off")
    title = f"{CAT.name} after each stage: the {MAPS} feature maps that vary most; yellow is large"
    figure.suptitle(title, size=10, y=0.985)
    sign(figure, manifest, 0.012)
    return figure
