"""Settings that cannot be: each is one sentence that names the setting, its value and what it may be."""

from __future__ import annotations

import random
import tomllib
from dataclasses import fields

import pytest

from musiq_ref.ablations import grid
from musiq_ref.cli import main
from musiq_ref.cli.train import parse_changes
from musiq_ref.config import MusiqConfig
from musiq_ref.training.settings import RECIPES, Settings, recipe


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("loss_options=5", "loss_options is 5; it must be a table; set a value in it, such as loss_options.delta=1.0"),
        ("groups.x=5", r"groups.x is 5; it must be a table, such as \{ lr_scale = 5.0 \}"),
        ("groups.head/*.lr_scale=-1", r"groups.head/\*.lr_scale is -1; it must be 0 or more"),
        ("groups.head/*.lr_rate=1", "has 'lr_rate'; choose from lr_scale, weight_decay"),
        ("groups.had/*.lr_scale=1", r"the parameter group 'had/\*' cannot be applied: no parameter matches it"),
        ("groups.*.lr_scale=0", "lr_scale 0 for every parameter; leave one to train"),
        ("reduction=['a','b']", r"reduction is \['a', 'b'\]; name the least and the most"),
        ("reduction=[1,inf]", r"reduction is \[1, inf\]"),
        ("photographs=[[1]]", r"photographs has \[1\]; choose from"),
        ("photographs=['cofee']", "photographs has 'cofee'; .*; did you mean 'coffee'"),
        ("optimizer_options.beta1='x'", "optimizer_options.beta1 is 'x'; it must be a value such as 0.9"),
        ("optimizer_options.beta1=5", "optimizer_options.beta1 is 5; it must be at least 0 and below 1"),
        ("optimizer_options.eps=0", "optimizer_options.eps is 0; it must be above 0"),
        ("optimizer_options.beta3=0", "has 'beta3', which adamw does not know; it knows beta1, .*; did you mean 'beta"),
        ("optimizer_options.groups=0", "has 'groups', which adamw does not know"),
        ("loss_options.delta='x'", "loss_options.delta is 'x'; it must be a value such as 1.0"),
        ("loss_options.delta=-1", "loss_options.delta is -1; it must be above 0"),
        ("model=5", "model is 5; it must be a table; set a value in it, such as model.layers=6"),
        ("model.conventions=5", "model.conventions is 5; it must be a table"),
        ("model.conventions.gelu=5", "model.conventions.gelu is 5; it must be a value such as 'tanh'"),
        ("model.preset=smal", "model.preset is 'smal'; choose one of small, .*; did you mean 'small'"),
        ("model.preset=[]", r"model.preset is \[\]"),
        ("model.layer=5", "MusiqConfig has no field 'layer'; did you mean 'layers'"),
        ("model.layers=1000000000", "MusiqConfig.layers is 1000000000; it must be .* at most 1,000"),
        ("model.longer_sides=[8,1000000000]", "MusiqConfig.longer_sides is 1000000000; it must be .* at most 4,096"),
        ("model.native=[1]", r"model.native is \[1\]; it must be a value such as True"),
        ("model.layers.x=1", r"model.layers is \{'x': 1\}; it must be a value such as 14"),
        ("batch.x=1", r"batch is \{'x': 1\}; it must be a value such as 32"),
        ("learning_rate=nan", "learning_rate is nan; it must be a finite number, above 0"),
        ("learning_rate=inf", "learning_rate is inf"),
        ("epochs=" + "9" * 400, "epochs is 9{77}…; it must be a finite number, above 0"),
        ("side=8", "side is 8; it must be 0, or from 16 to 300"),
        ("threads=99999", "threads is 99999; it must be from 0 to 1024"),
        ("dataset=konik", "dataset is 'konik'; choose one of .*; did you mean 'koniq'"),
        ("optimizer=adan", "optimizer is 'adan'; choose one of sgd, adam, adamw; did you mean 'adam"),
        ("warm_up=5", "has no setting 'warm_up'; .*; did you mean 'warmup'"),
        ("init=" + "x" * 5000, "init is .*; it is too long"),
        ("a..b=1", "--set 'a..b=1' is not NAME=VALUE"),
    ],
)
def test_a_setting_that_cannot_be_is_one_sentence(change, said, capsys, tmp_path):
    assert main(["train", "--recipe", "synthetic", "-o", str(tmp_path / "run"), "--set", change]) == 2
    [line] = capsys.readouterr().err.splitlines()
    with pytest.raises(ValueError, match=said):
        raise ValueError(line)
    assert len(line) < 700
    assert not (tmp_path / "run").exists()


def test_set_reaches_into_tables_of_tables():
    changes = parse_changes(["model.conventions.gelu=erf", "groups.head/*.lr_scale=2", "groups.*/bias.weight_decay=0"])
    settings = recipe("synthetic", **changes)
    assert settings.config().conventions.gelu == "erf"
    assert settings.groups["head/*"] == {"lr_scale": 2}
    assert settings.groups["*/bias"] == {"weight_decay": 0}
    assert recipe("ava", model={"preset": "tiny"}).config().width == 48
    with pytest.raises(ValueError, match="names a value in what another --set made a plain value"):
        parse_changes(["model=5", "model.layers=6"])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"batch = ", "mine.toml is not a TOML file"),
        (b"batch = 0", "mine.toml: batch is 0; it must be above 0"),
        (b"loss_options = 5", "mine.toml: loss_options is 5; it must be a table"),
        (b"when = 1979-05-27", "mine.toml: a training run has no setting 'when'"),
        ("loss = 'é'".encode("latin-1"), "mine.toml is not in UTF-8"),
        (b"batch = " + b"9" * 5000, "mine.toml is not a TOML file"),
        (b"batch = " + b"[" * 99_999, "mine.toml is not a TOML file"),
    ],
)
def test_a_recipe_that_cannot_be_names_its_file(content, said, tmp_path):
    (tmp_path / "mine.toml").write_bytes(content)
    with pytest.raises(ValueError, match=said):
        recipe(str(tmp_path / "mine.toml"))


def test_misspelt_recipes_and_ablations_get_a_suggestion(tmp_path):
    (tmp_path / "mine.toml").write_text("")
    for name, said in (("konik", "did you mean 'koniq'"), (str(tmp_path / "min.toml"), "did you mean 'mine.toml'")):
        with pytest.raises(ValueError, match=said):
            recipe(name)
    with pytest.raises(ValueError, match="did you mean 'stem'"):
        grid("sten")
    with pytest.raises(ValueError, match="did you mean 'crops'"):
        grid("stem", held_out={"crop": 1})
    with pytest.raises(ValueError, match=r"severities has 2\.0; each must be from 0 to 1"):
        grid("stem", held_out={"severities": [2.0]})


VALUES = ["5", "-1", "0", "nan", "inf", "-inf", "1e400", "10000000000000000000", "'x'", "x", "[]", "{}", "[1,2]"]
VALUES += ["['a','b']", "{a=1}", "{lr_scale='x'}", "true", "1979-05-27", "[[1]]", "0.5", "1.5", "[nan,nan]", "[1,inf]"]
VALUES += ["[1.5,true]", "[{}]", "tiny", "1e-300", "2", "0x10", "[12]", "[0]", "[-1]", "pyiqa", "", "\x00", "\ud800"]
VALUES += ["9" * 5000, "[" * 2000, "a\nb=1"]
INSIDE = {
    "model": [
        *vars(MusiqConfig()),
        "preset",
        "layers.x",
        "conventions.gelu",
        "conventions.mask_value",
        "conventions.x.y",
    ],
    "loss_options": ["delta", "r", "smoothing"],
    "optimizer_options": ["beta1", "momentum", "nesterov", "groups", "decoupled", "eps", "weight_decay"],
    "groups": ["x", "head/*", "head/*.lr_scale", "*.lr_scale", "*.lr_scale.x"],
    "held_out": ["crops", "severities", "size", "mixtures", "seed"],
    "batch": ["x"],
}
KEYS = [f"{table}.{name}" for table, names in INSIDE.items() for name in names]
KEYS += [*(field.name for field in fields(Settings)), "held_out", "part", "speed", "a..b", "."]


def outcome(make):
    """Nothing, or the one sentence; any other exception comes through."""
    said = ""
    try:
        make()
    except ValueError as error:
        said = str(error)
    assert len(said.splitlines()) <= 1
    assert len(said) < 800
    return said


@pytest.mark.parametrize("count", [500, pytest.param(5_000, marks=pytest.mark.long)])
def test_random_settings_are_settings_or_a_sentence(count):
    rng, said = random.Random(0), set()
    for _ in range(count):
        texts = [f"{rng.choice(KEYS)}={rng.choice(VALUES)}" for _ in range(rng.choice([1, 1, 1, 2, 3]))]
        make = rng.choice([lambda **c: recipe("koniq", **c), lambda **c: grid("stem", 1, **c)])
        said.add(outcome(lambda: make(**parse_changes(texts))))  # noqa: B023, called at once
    assert len(said) > 100


@pytest.mark.parametrize("count", [300, pytest.param(5_000, marks=pytest.mark.long)])
def test_mutated_recipes_are_settings_or_a_sentence(count, tmp_path):
    rng, path = random.Random(0), tmp_path / "mine.toml"
    recipes, said = [file.read_bytes() for file in sorted(RECIPES.glob("*.toml"))], set()
    for _ in range(count):
        text = bytearray(rng.choice(recipes))
        for _ in range(rng.choice([1, 1, 2, 5])):
            at = rng.randrange(len(text))
            text[at : at + rng.choice([0, 1, 9])] = rng.choice(
                [b"", bytes([rng.randrange(256)]), b"[", b"5", b"=", b"{}"]
            )
        path.write_bytes(text)
        said.add(outcome(lambda: recipe(str(path))).split("(")[0])
    assert "" in said
    assert len(said) > 20


def test_every_bundled_recipe_is_good():
    for file in RECIPES.glob("*.toml"):
        assert recipe(file.stem) == recipe(str(file)), tomllib.loads(file.read_text())


def test_a_performer_with_dropout_of_weights_is_refused_before_it_begins():
    with pytest.raises(ValueError, match=r"attention_dropout is 0\.1; set it to 0 with model.attention='performer'"):
        recipe("synthetic").replace(model={"attention": "performer"}, attention_dropout=0.1)
    assert recipe("synthetic").replace(model={"attention": "linformer"}, attention_dropout=0.1)
