"""No bytes make a reader fail in its own words: it reads them or says what is wrong (fuzz.py searches for longer)."""

import random

import pytest
from fuzz import mutated
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from readers import READERS, run, seeds

QUICK = settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.mark.parametrize("name", READERS)
def test_good_files_and_changed_ones_are_read_or_told(name):
    rng, good = random.Random(1), seeds(name)
    for data in good:
        run(READERS[name], data)
    for _ in range(60):
        run(READERS[name], mutated(rng.choice(good), rng))


@pytest.mark.parametrize("name", READERS)
@QUICK
@given(data=st.binary(max_size=300))
def test_any_bytes_are_read_or_told(name, data):
    run(READERS[name], data)


@QUICK
@given(text=st.text(alphabet="{}[]&*!|>%@:,-?#'\"\n\t <~.0x_eE+infa", max_size=60))
def test_any_yaml_is_read_or_told(text):
    run(READERS["recipes"], text.encode())


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
FIELDS = (
    "rows part_count parts swap adaptive class_shares unreadable reasons provenance models version baselines recipe "
    "template files trained hidden_size num_hidden_layers vocab_size id2label r lora_alpha target_modules weight_map"
).split()


@QUICK
@given(content=st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=4))
def test_any_values_of_a_manifest_are_read_or_told(content):
    import json

    for seed in seeds("manifests"):
        run(READERS["manifests"], json.dumps({**json.loads(seed), **content}).encode())
