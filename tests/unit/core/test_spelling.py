from unicodedata import normalize

from clip_wsss.core.spelling import unknown


def test_the_closest_name_is_named_or_all():
    assert unknown("class", "dgo", ["cat", "dog"]) == "unknown class `dgo`; did you mean `dog`?"
    assert unknown("class", "x", ["cat", "dog"]) == "unknown class `x`; known are: cat, dog"
    assert unknown("key", "x", []) == "unknown key `x`; known are: none"


def test_a_name_that_only_looks_the_same_is_not_proposed_as_it_is():
    composed = normalize("NFC", "caf\u00e9")
    said = unknown("class", normalize("NFD", composed), [composed])
    assert said.endswith(
        "one of that look is made of other characters (Unicode NFC and NFD); copy it"
    )
