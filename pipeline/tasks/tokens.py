"""Numbers of tasks in the task embedding of 12-in-1, from `vilbert_tasks.yml` of vilbert-multi-task.

It has no captioning, which takes the row that no task of it has. `retrieval` has that of Flickr30k.
"""

TASK_TOKENS = {
    "captioning": 0,
    "vqa": 1,
    "vcr-qa": 5,
    "vcr-qar": 6,
    "retrieval-coco": 7,
    "retrieval": 8,
    "refcoco": 9,
    "refcoco+": 10,
    "refcocog": 11,
    "nlvr2": 12,
    "snli-ve": 13,
    "gqa": 15,
}
