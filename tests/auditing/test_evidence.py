"""The page and the evidence: what they hold, what they must not hold, and that no tampering goes unnoticed."""

import base64
import dataclasses
import json
import re

import numpy as np
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

import tmu_jax
from tests.auditing.made import audited, data, original, problem, retrained
from tmu_jax.auditing.audits import Audit
from tmu_jax.auditing.evidence import canonical, parse, salted, sign
from tmu_jax.auditing.page import render
from tmu_jax.data.copies import copies_note
from tmu_jax.requests import Copies
from tmu_jax.training.saving import save_model, state_of, weights_digest

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
OTHER = Ed25519PrivateKey.from_private_bytes(bytes(32))
IDS = [f"user/{n}.png" for n in range(80)]


@pytest.fixture(scope="module")
def model():
    """The retrained model of the audit."""
    return retrained()


@pytest.fixture(scope="module")
def written(tmp_path_factory, model):
    folder = tmp_path_factory.mktemp("written")
    files = audited().write(folder / "answer.html", folder / "evidence.json", key=KEY)
    model.save(folder / "model", "safetensors")
    return folder, files


def given(written, **changed):
    """What a third party who has everything verifies."""
    folder, files = written
    everything = {
        "evidence_path": folder / "evidence.json", "page": folder / "answer.html", "public_key": KEY.public_key(),
        "model": folder / "model", "data": data(), "ids": IDS, "salt": files.salt,
    }  # fmt: skip
    everything |= changed
    return tmu_jax.verify(everything.pop("evidence_path"), **everything)


def test_untouched_files_fit(written):
    found = given(written)
    assert found.ok, str(found)
    assert found.not_checked == ()
    assert len(found.checked) == 8
    alone = tmu_jax.verify(written[1].evidence)
    assert alone.ok
    assert len(alone.not_checked) == 5


def test_one_requester_finds_their_own_image(written):
    assert given(written, ids=IDS[7:8]).ok
    assert "1 of 2 ids are not among those asked for" in str(given(written, ids=[IDS[7], "user/80.png"]))


def test_no_id_and_no_salt_stands_in_a_file(written):
    for path in written[1][:2]:
        text = path.read_text("utf-8")
        assert "user/" not in text
        assert written[1].salt not in text
    document = parse(written[1].evidence.read_bytes())
    assert document["request"]["ids"]["values"] == salted(IDS, written[1].salt)


def test_no_image_that_a_note_names_stands_in_a_file(tmp_path):
    """Neither the requester's, nor others' that look alike; what the method has to say of itself does."""
    named = dataclasses.replace(problem(), notes=("user/3.png is equal to other/77.png",))
    # As `forget` and `unlearn` add it to a result, whose request does not carry it.
    of_result = copies_note(np.array([[3, 77]]), names=lambda row: f"other/{row}.png")
    found = dataclasses.replace(retrained(), notes=(*named.notes, *of_result, "its own note"))
    pair = np.array([[named.forget.indices[3], named.retain.indices[7]]], np.int32)
    audit = tmu_jax.audit(named, found, ids=IDS, copies=Copies(pair, pair[:0], np.zeros(0, np.float32), None))
    for path in audit.write(tmp_path / "a.html", tmp_path / "e.json")[:2]:
        text = path.read_text("utf-8")
        assert ".png" not in text
        assert "its own note" in text
        assert "1 equal pixels" in text


def test_weights_and_data_are_hashed_as_said(written, model):
    document = parse(written[1].evidence.read_bytes())
    assert document["weights"] == {
        "before": weights_digest(state_of(original())), "after": weights_digest(state_of(model))
    }  # fmt: skip
    assert set(document["versions"]) >= {"tmu_jax", "jax", "flax", "numpy", "python", "platform"}


def test_without_a_key_it_is_unsigned_and_says_so(tmp_path):
    files = audited().write(tmp_path / "a.html", tmp_path / "e.json")
    assert "It is not signed" in files.page.read_text("utf-8")
    found = tmu_jax.verify(files.evidence, page=files.page)
    assert found.ok
    assert "Who made it: it is not signed." in found.not_checked
    assert not tmu_jax.verify(files.evidence, public_key=KEY.public_key()).ok


def test_keys_from_files(tmp_path):
    private = KEY.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"pass")
    )
    (tmp_path / "key.pem").write_bytes(private)
    public = KEY.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "public.pem").write_bytes(public)
    raw = KEY.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    files = audited().write(tmp_path / "a.html", tmp_path / "e.json", key=tmp_path / "key.pem", password=b"pass")
    encoded = base64.b64encode(raw).decode()
    assert encoded in files.page.read_text("utf-8").replace("&#43;", "+")
    for key in (tmp_path / "public.pem", encoded, KEY.public_key()):
        assert tmu_jax.verify(files.evidence, public_key=key).ok


@pytest.mark.parametrize(
    ("content", "error", "said"),
    [
        (None, FileNotFoundError, r"key=.*key\.pem is not there"),
        (b"no key", ValueError, r"cannot be read as a private key in PEM"),
        (
            X25519PrivateKey.generate().private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            ),
            ValueError,
            "an Ed25519 key is needed",
        ),
    ],
)
def test_what_is_no_key_is_refused_before_anything_is_written(content, error, said, tmp_path):
    if content is not None:
        (tmp_path / "key.pem").write_bytes(content)
    with pytest.raises(error, match=said):
        audited().write(tmp_path / "a.html", tmp_path / "e.json", key=tmp_path / "key.pem")
    assert not (tmp_path / "a.html").exists()


def test_canonical_json_is_one_form():
    assert canonical({"b": [1, 0.5], "a": "ä"}) == '{"a":"ä","b":[1,0.5]}'.encode()
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical({"a": float("nan")})


def change(path, value):
    """An edit of one entry, by its path."""

    def edit(document):
        at = document
        for name in path[:-1]:
            at = at[name]
        at[path[-1]] = value(at[path[-1]]) if callable(value) else value

    return edit


def drop(path):
    def edit(document):
        at = document
        for name in path[:-1]:
            at = at[name]
        del at[path[-1]]

    return edit


EDITS = {
    "a figure": change(["figures", "accuracy", "forget", "after", "value"], 12.5),
    "an interval": change(["figures", "membership", "after", "auc", "high"], lambda old: old - 0.01),
    "a count": change(["measured", "kept", "after"], lambda old: [old[0] - 1, old[1]]),
    "a margin": change(["measured", "forget", "margin_after", 3], lambda old: old + 2.0),
    "right and wrong": change(["measured", "forget", "right_after", 5], lambda old: 1 - old),
    "a held-out margin": change(["measured", "heldout", "margin_before", 9], lambda old: -old),
    "a held-out image left out": change(["measured", "heldout", "label"], lambda old: old[:-1]),
    "a distance to gold": change(["measured", "forget", "distance_after", 0], lambda old: old / 2),
    "a code of an id": change(["request", "ids", "values", 0], "0" * 64),
    "an id left out": change(["request", "ids", "values"], lambda old: old[1:]),
    "an id twice": change(["request", "ids", "values", 1], lambda old: None),
    "how many were asked for": change(["about", "asked"], 79),
    "a bound": change(["checks", 3, "high"], lambda old: old + 5),
    "a check's status": change(["checks", 3, "status"], "cannot tell"),
    "a check's sentence": change(["checks", 3, "sentence"], lambda old: old.replace("5", "6")),
    "a check left out": drop(["checks", 4]),
    "the outcome": change(["outcome"], "nothing shown"),
    "weights before": change(["weights", "before"], lambda old: old[::-1]),
    "weights after as before": change(["weights"], lambda old: {**old, "after": old["before"]}),
    "a neighbour's count": change(["measured", "neighbours", 0, "kept_after", 0], lambda old: old - 1),
    "a version": change(["versions", "jax"], "0.0.1"),
    "the date": change(["made"], "2020-01-01T00:00:00+00:00"),
    "a note": change(["settings", "notes"], lambda old: [*old, "all is well"]),
    "the data's hash": change(["data", "sha256"], "0" * 64),
    "the page's hash": change(["page", "sha256"], "0" * 64),
    "the cost": change(["cost", "seconds"], 0.1),
    "the schema": change(["schema"], "tmu_jax evidence 0"),
    "an entry more": lambda document: document.update(more=1),
    "an entry less": drop(["debt"]),
    "the measured values": drop(["measured", "forget"]),
    "another's signature": change(["signature"], lambda old: sign({"another": 1}, KEY)),
    "a bit of the signature": change(["signature", "value"], lambda old: ("B" if old[0] == "A" else "A") + old[1:]),
    "no signature": change(["signature"], None),
    "an algorithm": change(["signature", "algorithm"], "none"),
}
FOLLOWS = list(EDITS)[: list(EDITS).index("weights before")]


@pytest.mark.parametrize("name", EDITS)
def test_every_edit_of_the_evidence_is_found(name, written, tmp_path):
    document = parse(written[1].evidence.read_bytes())
    before = canonical(document)
    EDITS[name](document)
    assert canonical(document) != before
    (tmp_path / "e.json").write_text(json.dumps(document))
    assert not tmu_jax.verify(tmp_path / "e.json", public_key=KEY.public_key()).ok


@pytest.mark.parametrize("name", FOLLOWS)
def test_figures_that_do_not_follow_are_found_though_they_are_signed(name, written, tmp_path):
    """By a signer who edits and signs again: what was measured, and what is said of it, must fit."""
    document = parse(written[1].evidence.read_bytes())
    EDITS[name](document)
    unsigned = {key: value for key, value in document.items() if key != "signature"}
    (tmp_path / "e.json").write_text(json.dumps({**unsigned, "signature": sign(unsigned, KEY)}))
    found = given(written, evidence_path=tmp_path / "e.json")
    assert "The signature." in found.checked
    assert not found.ok


def test_another_signer_is_found(written, tmp_path):
    document = parse(written[1].evidence.read_bytes())
    del document["signature"]
    (tmp_path / "e.json").write_text(json.dumps({**document, "signature": sign(document, OTHER)}))
    assert "signed by another key" in str(given(written, evidence_path=tmp_path / "e.json"))
    assert tmu_jax.verify(tmp_path / "e.json").ok  # Whose key it is, only the signer can tell.


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[: len(content) // 2],
        lambda content: b"",
        lambda content: content.replace(b'"outcome": "passed"', b'"outcome": "failed", "outcome": "passed"'),
        lambda content: content.replace(b'"low": 0.0', b'"low": NaN', 1).replace(
            b'"high": 100.0', b'"high": Infinity', 1
        ),
        lambda content: content + b"{}",
        lambda content: b"\xff" + content,
        lambda content: b"[1, 2]",
    ],
    ids=["truncated", "empty", "a name twice", "not a number", "something after it", "not UTF-8", "a list"],
)
def test_files_that_are_no_evidence_are_found(damage, written, tmp_path):
    content = written[1].evidence.read_bytes()
    (tmp_path / "e.json").write_bytes(damage(content))
    assert damage(content) != content
    found = tmu_jax.verify(tmp_path / "e.json")
    assert [problem[:29] for problem in found.problems] == ["The evidence cannot be read: "]


def test_an_edited_page_is_found(written, tmp_path):
    content = written[1].page.read_text("utf-8")
    (tmp_path / "a.html").write_text(content.replace("no certificate", "a certificate"), "utf-8")
    assert "is not the one that the evidence is of" in str(given(written, page=tmp_path / "a.html"))


MODELS = {
    "one value": lambda tree: tree["params"]["Dense_0"]["kernel"].__setitem__((0, 0), 1.0),
    "a dtype": lambda tree: tree["params"].update(
        Dense_0={**tree["params"]["Dense_0"], "bias": np.zeros(64, np.float16)}
    ),
    "a shape": lambda tree: tree["params"]["Dense_0"].update(bias=tree["params"]["Dense_0"]["bias"][None]),
    "a name": lambda tree: tree["params"].update(Dense_9=tree["params"].pop("Dense_1")),
    "a part left out": lambda tree: tree.pop("batch_stats"),
    "a statistic": lambda tree: tree["batch_stats"]["BatchNorm_0"]["mean"].__setitem__(0, 9.0),
}


@pytest.mark.parametrize("name", MODELS)
def test_another_model_is_found(name, written, model, tmp_path):
    """Saved anew, so that its own checksums agree."""
    tree = {
        part: {k: {n: np.array(v) for n, v in of.items()} for k, of in parts.items()}
        for part, parts in model.variables.items()
    }
    MODELS[name](tree)
    save_model(dataclasses.replace(model, variables=tree), tmp_path / "m", "msgpack")
    assert "weights are not those that the audit was made of" in str(given(written, model=tmp_path / "m"))


def test_other_normalisation_the_model_before_and_damage_are_found(written, model, tmp_path):
    other = dataclasses.replace(model, normalization=model.normalization._replace(std=model.normalization.std * 2))
    assert not given(written, model=other).ok
    assert "is the one before, which knows the images" in str(given(written, model=original()))
    model.save(tmp_path / "m", "safetensors")
    content = bytearray((tmp_path / "m" / "arrays.safetensors").read_bytes())
    content[-1] ^= 1
    (tmp_path / "m" / "arrays.safetensors").write_bytes(content)
    assert "arrays.safetensors is not as it was written" in str(given(written, model=tmp_path / "m"))
    assert given(written, model=model).ok


def test_other_data_are_found(written):
    pixels, labels = data().train_images.copy(), data().train_labels.copy()
    pixels[0, 0, 0, 0] ^= 1
    labels[0] = (labels[0] + 1) % 10
    for changed in ({"train_images": pixels}, {"train_labels": labels}):
        assert "The data is not what" in str(given(written, data=dataclasses.replace(data(), **changed)))


def test_another_salt_is_found(written):
    assert "80 of 80 ids are not among those asked for" in str(given(written, salt="another"))


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"salt": None}, ValueError, "only together"),
        ({"ids": "user/1.png"}, ValueError, "ids must be a list"),
        ({"public_key": "nobody"}, ValueError, "neither a file nor 32 bytes in base64"),
        ({"page": "no.html"}, FileNotFoundError, r"page='no\.html' is not there"),
        ({"evidence_path": "no.json"}, FileNotFoundError, r"evidence_path='no\.json' is not there"),
    ],
)
def test_calls_that_cannot_be(written, options, error, said):
    with pytest.raises(error, match=said):
        given(written, **options)


def test_the_page_asks_nothing_of_any_other_place(written):
    text = written[1].page.read_text("utf-8")
    assert not re.search(r"(?i)https?://|src=|url\(|@import|<script|<link", text)
    assert "default-src 'none'" in text


def test_the_page_says_what_was_found_and_what_was_not(written):
    text = (
        re.sub(r"\s+", " ", re.sub(r"<[^>]+>", "", written[1].page.read_text("utf-8")))
        .replace("&#39;", "'")
        .replace("&nbsp;", " ")
    )
    text = text.replace("\N{NO-BREAK SPACE}", " ")
    found = audited()
    for sentence in [*(check.sentence for check in found.checks), *found.findings[4:], *found.not_shown]:
        assert sentence in text
    for word in ("no certificate", "backups", "Other systems", "copies of the earlier model"):
        assert word in text
    after = found.figures["accuracy"]["forget"]["after"]
    assert f"{after['value']:.1f} % ({after['low']:.1f} to {after['high']:.1f})" in text


def test_headings_tables_and_pictures_can_be_read_aloud(written):
    text = written[1].page.read_text("utf-8")
    assert '<html lang="en">' in text
    assert text.count("<caption>") == text.count("<table>") == 3
    assert not re.search(r"<th(?! scope=| ?ead)", text.replace("<thead", "<t-head"))
    assert re.search(r'<svg[^>]*role="img"[^>]*aria-labelledby="told-title"', text)
    assert re.findall(r"<h(\d)", text)[0] == "1"


@pytest.mark.parametrize("outcome", ["passed", "failed", "nothing shown"])
def test_whatever_is_in_it_is_escaped(outcome):
    document = json.loads(json.dumps(audited().document))
    document["settings"] |= {"notes": ["<script>alert(1)</script>"], "method": "<b>&"}
    document["outcome"] = outcome
    text = render(document, "<i>", "<u>.html", "<e>.json")
    assert "<script" not in text
    assert "&lt;script&gt;" in text
    assert "<b>&" not in text
    assert not re.search("<[iue]>", text)
    assert "<script" not in Audit(document, ())._repr_html_()


def test_it_prints_in_ascii():
    document = json.loads(json.dumps(audited().document))
    document["checks"][0]["sentence"] = "größer – als × 3"
    assert "gr\\xf6\\xdfer - als x 3" in str(Audit(document, ()))
    str(Audit(document, ())).encode("ascii")
    assert "evidence: DOES NOT FIT" in str(tmu_jax.Verification(("ä",), (), ()))
