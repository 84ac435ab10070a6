"""The published Faster R-CNN detectors trained on Visual Genome, on torchvision operators.

Their networks are alike, and each published port of them differs in details that change the features, which
docs/detectors.md lists. `conventions.py` names every such detail, `presets.py` has their values for each port,
`layouts.py` the names of the parameters in each port's files. `vilbert convert-detector` makes one file of weights and
conventions, which `network.py` builds and `extractor.py` runs.
"""
