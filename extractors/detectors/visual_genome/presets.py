"""The conventions of each published port.

Sources: peteanderson80/bottom-up-attention (`caffe`), airsplay/py-bottom-up-attention (`airsplay`),
huggingface/transformers-research-projects lxmert/modeling_frcnn.py (`hf`), MILVLG/bottom-up-attention.pytorch
(`milvlg`, `milvlg-r152`), vedanuj/vqa-maskrcnn-benchmark (`vmb`), microsoft/scene_graph_benchmark (`vinvl`).
"""

from __future__ import annotations

from dataclasses import replace

from vilbert.extractors.detectors.visual_genome.conventions import Conventions

_CAFFE_MEAN = (102.9801, 115.9465, 122.7717)
_DETECTRON_MEAN = (103.530, 116.280, 123.675)

CAFFE = Conventions(
    stem_pool="ceil",
    stride_in_1x1=True,
    norm_epsilon=1e-5,
    res5_stride=1,
    res5_dilation=2,
    anchor_sizes=((64, 128, 256, 512),),
    anchor_order="ratio",
    anchor_rounding="caffe",
    objectness_logits=2,
    rpn_pre_nms=6000,
    rpn_post_nms=300,
    rpn_min_size=16,
    rpn_filter="before_top_k",
    boxes="caffe",
    overlap_of_last_pixels=True,
    clamp_deltas=False,
    box_weights=(1, 1, 1, 1),
    pooling="roi_pool",
    pool_size=14,
    background="first",
    background_box=True,
    no_attribute="first",
    no_attribute_dropped="after_softmax",
    pixel_mean=_CAFFE_MEAN,
    min_size=600,
    max_size=1000,
    size_rule="caffe",
    resize="cv2",
    scale_back="uniform",
)
MILVLG = replace(CAFFE, clamp_deltas=True)
MILVLG_R152 = replace(
    MILVLG,
    preactivation=True,
    stride_in_1x1=False,
    norm_epsilon=2e-5,
    res5_stride=2,
    res5_dilation=1,
    pixel_mean=(0, 0, 0),
)
AIRSPLAY = Conventions(
    stem_pool="ceil",
    stride_in_1x1=True,
    norm_epsilon=1e-5,
    res5_stride=1,
    res5_dilation=2,
    anchor_sizes=((64, 128, 256, 512),),
    anchor_order="size",
    anchor_rounding="none",
    objectness_logits=1,
    rpn_pre_nms=6000,
    rpn_post_nms=300,
    rpn_filter="after_top_k",
    boxes="real",
    overlap_of_last_pixels=False,
    box_weights=(10, 10, 5, 5),
    pooling="roi_pool",
    pool_size=14,
    background="last",
    background_box=False,
    no_attribute="last",
    no_attribute_dropped="before_softmax",
    pixel_mean=_CAFFE_MEAN,
    min_size=600,
    max_size=1000,
    size_rule="detectron2",
    resize="pil",
    scale_back="per_axis",
)
HF = replace(AIRSPLAY, resize="torch")
VMB = Conventions(
    stem_pool="padded",
    stride_in_1x1=False,
    norm_epsilon=0,
    res5_stride=2,
    res5_dilation=1,
    anchor_sizes=((32,), (64,), (128,), (256,), (512,)),
    anchor_order="ratio",
    anchor_rounding="caffe",
    objectness_logits=1,
    rpn_pre_nms=1000,
    rpn_post_nms=1000,
    rpn_filter="after_top_k",
    boxes="maskrcnn",
    overlap_of_last_pixels=True,
    clip_to="padded",
    box_weights=(10, 10, 5, 5),
    pooling="roi_align",
    pool_size=7,
    pool_sampling=2,
    background="first",
    background_box=True,
    pixel_mean=_CAFFE_MEAN,
    min_size=800,
    max_size=1333,
    size_rule="caffe",
    resize="cv2",
    pad_to=32,
    scale_back="uniform",
)
VINVL = replace(
    VMB,
    anchor_sizes=((32, 64, 128, 256, 512),),
    rpn_pre_nms=6000,
    rpn_post_nms=300,
    overlap_of_last_pixels=False,  # torchvision's nms is used in place of the compiled one
    clip_to="image",
    pool_size=14,
    pool_sampling=0,
    no_attribute="first",
    attribute_class="label",
    pixel_mean=_DETECTRON_MEAN,
    min_size=600,
    max_size=1000,
    size_rule="maskrcnn",
    resize="pil",
    pad_to=1,
    scale_back="per_axis",
    label="unsuppressed",
)

PRESETS = {
    "caffe": CAFFE,
    "airsplay": AIRSPLAY,
    "milvlg": MILVLG,
    "milvlg-r152": MILVLG_R152,
    "hf": HF,
    "vmb": VMB,
    "vinvl": VINVL,
}
