from vilbert.pipeline.jobs.plan import differences


def test_differences_name_the_field_and_both_values() -> None:
    was = {"shard_size": 8, "fingerprint_fields": {"extractor": {"precision": "fp32", "weights": "a" * 90}}}
    now = {"shard_size": 8, "fingerprint_fields": {"extractor": {"precision": "bf16", "weights": "b" * 90}, "new": 1}}
    assert list(differences(was, now)) == [
        'extractor.precision: "fp32" in the data set, "bf16" requested',
        f'extractor.weights: "{"a" * 76}... in the data set, "{"b" * 76}... requested',
        "new: null in the data set, 1 requested",
    ]
    assert list(differences(was, was)) == []


def test_differences_inside_a_list_are_named_by_their_place() -> None:
    was = {"sources": [{"format": "tsv", "names": "a" * 90}, {"format": "tsv"}], "sizes": [{}]}
    now = {"sources": [{"format": "tsv", "names": "a" * 90}, {"format": "npz"}], "sizes": [{}, {}]}
    assert list(differences(was, now)) == [
        "sizes: [{}] in the data set, [{}, {}] requested",
        'sources 2.format: "tsv" in the data set, "npz" requested',
    ]
