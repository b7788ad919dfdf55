"""The figures of musiq_ref.explain: what they show, not only that they are drawn."""

from __future__ import annotations

import re
from itertools import pairwise

import matplotlib
import numpy as np
import pytest
from matplotlib.colors import to_rgb

import musiq_ref as mq
from musiq_ref import explain
from musiq_ref.cli import main
from musiq_ref.explain import report as report_module
from musiq_ref.explain.style import COLOURS, DIVERGING, OVERLAY, SEQUENTIAL
from musiq_ref.image.hash import hash_index
from musiq_ref.image.tokenize import drop_padding, scales_of
from musiq_ref.verify import deterministic_params, trace

CONFIG = mq.MusiqConfig.preset("tiny", outputs=10, longer_sides=(64, 96))
PARAMS = deterministic_params(CONFIG, 4)
SIZE = (70, 130)
SCALES = scales_of(*SIZE, CONFIG)


@pytest.fixture
def image(rng):
    return rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8)


def maps_shown(figure):
    """The arrays laid over the photographs, one per scale: the second image of each axis."""
    return [np.ma.filled(axis.images[1].get_array(), np.nan) for axis in figure.axes[: len(SCALES)]]


def test_values_of_tokens_lie_where_their_patches_do():
    tokens = drop_padding(mq.tokenize(np.zeros((*SIZE, 3), np.uint8), CONFIG))
    cells = explain.maps_by_scale(tokens.hash_index, SIZE, CONFIG)
    for scale, laid_out in zip(SCALES, cells, strict=True):
        wanted = hash_index(scale.rows, scale.columns, CONFIG.grid_size).reshape(scale.rows, scale.columns)
        np.testing.assert_array_equal(laid_out, wanted)


def test_patches_that_were_cut_off_are_left_open():
    config = CONFIG.replace(max_native_patches=4)
    native = explain.maps_by_scale(np.arange(14.0), SIZE, config)[-1]
    assert np.isnan(native.ravel()[4:]).all()
    np.testing.assert_array_equal(native.ravel()[:4], np.arange(10.0, 14.0))


def test_multi_scale_patches_shows_every_patch_and_frames_the_named_one(image):
    figure = explain.multi_scale_patches(image, CONFIG, highlight=[SCALES[0].kept + 1])
    for axis, scale in zip(figure.axes, SCALES, strict=True):
        assert len(axis.lines) == scale.rows - 1 + scale.columns - 1
        assert f"{scale.rows}×{scale.columns} patches" in axis.get_title()
        width = abs(np.subtract(*axis.get_xlim()))
        assert width == scale.columns * CONFIG.patch_size  # the padded scale
    frames = [len(axis.patches) for axis in figure.axes]
    assert frames == [0, 1, 0]
    x, _ = figure.axes[1].patches[0].get_xy()
    left = (SCALES[1].columns * 32 - SCALES[1].width) // 2
    assert x == 32 - left - 0.5  # the second patch of the first row
    native = figure.axes[2].images[0].get_array()
    np.testing.assert_allclose(native, image / 255, atol=1e-6)


def test_over_scales_shows_the_values_it_was_given(image, rng):
    values = rng.random(sum(scale.kept for scale in SCALES))
    values /= values.sum()
    figure = explain.over_scales(image, values, CONFIG, "share", share=True)
    np.testing.assert_array_equal(np.concatenate([m.ravel() for m in maps_shown(figure)]), values)
    first = values[: SCALES[0].kept].sum()
    assert figure.axes[0].get_title() == f"{explain.scale_name(SCALES[0])}\n{first:.0%} of the whole"
    assert figure.axes[-1].get_ylabel() == "share\n(line: all patches alike)"
    assert set(figure.axes[-1].lines[-1].get_ydata()) == {values.mean()}
    assert len({axis.images[1].get_clim() for axis in figure.axes[:3]}) == 1  # one colour bar for all


def test_the_hash_grid_counts_patches_of_a_cell(image):
    figure = explain.hash_grid(image, CONFIG.replace(grid_size=3))
    for shown, scale in zip(maps_shown(figure), SCALES, strict=True):
        index = hash_index(scale.rows, scale.columns, 3)
        np.testing.assert_array_equal(shown.ravel(), np.bincount(index)[index])
    assert [label.get_text() for label in figure.axes[2].get_xticklabels()] == ["0", "1", "2"]


def test_the_similarity_grid_has_each_cell_alike_to_itself():
    table = PARAMS["spatial_embedding"]["table"]
    similarity = explain.embedding_similarity(table)
    np.testing.assert_allclose(similarity, np.corrcoef(table, rowvar=True) * 0 + similarity.T, atol=1e-6)
    np.testing.assert_allclose(np.diag(similarity), 1, rtol=1e-5)
    a, b = table[7], table[42]
    assert similarity[7, 42] == pytest.approx(a @ b / np.sqrt((a @ a) * (b @ b)), rel=1e-5)
    picture = explain.similarity_grid(table).axes[0].images[0].get_array()
    G = CONFIG.grid_size
    tile = picture[2 * (G + 1) : 2 * (G + 1) + G, 3 * (G + 1) : 3 * (G + 1) + G]  # cell (2, 3); one pixel between maps
    np.testing.assert_array_equal(tile, similarity[2 * G + 3].reshape(G, G))


def test_the_similarity_grid_wants_a_square_table():
    with pytest.raises(ValueError, match="no square"):
        explain.similarity_grid(np.ones((7, 3)))


def test_a_heads_attention_is_the_models(image):
    values, _ = trace(PARAMS, mq.batch([drop_padding(mq.tokenize(image, CONFIG))]), CONFIG)
    weights = values["encoder/block_00/attention/weights"][0]
    np.testing.assert_array_equal(explain.attention_of_head(image, PARAMS, CONFIG, 0, 3), weights[3, 0, 1:])
    row = explain.attention_of_head(image, PARAMS, CONFIG, -2, -1, token=5)
    np.testing.assert_array_equal(row, weights[3, 6, 1:])
    figure = explain.head_over_photograph(image, PARAMS, CONFIG, 0, 3, token=5)
    np.testing.assert_array_equal(np.concatenate([m.ravel() for m in maps_shown(figure)]), weights[3, 6, 1:])


@pytest.mark.parametrize(("name", "number"), [("block", 2), ("head", -5), ("token", 999)])
def test_a_head_that_is_not_there_is_an_error(image, name, number):
    with pytest.raises(ValueError, match=f"there is no {name} {number}"):
        explain.attention_of_head(image, PARAMS, CONFIG, **{name: number})


@pytest.mark.parametrize("most", [-1, 4])
def test_rollout_is_shown_by_scale(image, most):
    config = CONFIG.replace(max_native_patches=most)
    wanted = mq.attention_rollout(PARAMS, mq.tokenize(image, config), config, SIZE)
    for shown, laid_out in zip(maps_shown(explain.rollout_over_photograph(image, PARAMS, config)), wanted, strict=True):
        np.testing.assert_array_equal(shown, laid_out)


def test_the_gradient_is_the_gradient(image):
    figure = explain.gradient_over_photograph(image, PARAMS, CONFIG)
    value, dimage = mq.image_gradient(image, PARAMS, CONFIG)
    assert f"score {value:.4g}" in figure.axes[0].get_title()
    np.testing.assert_allclose(figure.axes[1].images[0].get_array(), np.abs(dimage).sum(axis=2))
    np.testing.assert_allclose(figure.axes[2].images[0].get_array(), dimage.sum(axis=2))
    low, high = figure.axes[2].images[0].get_clim()
    assert low == -high  # no change is the middle colour


@pytest.mark.parametrize(
    "change",
    [
        {"outputs": 1},
        {"outputs": 10, "spatial": "sinusoidal"},
        {"spatial": "none"},
        {"scale_embedding": False, "stem": "linear"},
        {"spatial": "none", "scale_embedding": False},
    ],
)
def test_the_diagram_has_every_parameter_and_the_real_shapes(image, change):
    config = CONFIG.replace(**change)
    steps = explain.diagram_steps(config, SIZE)
    assert sum(step.parameters for step in steps) == mq.complexity(config, SIZE).parameters
    values, _ = trace(mq.init_params(config), mq.batch([drop_padding(mq.tokenize(image, config))]), config)
    shapes = {step.title: step.shape for step in steps}
    for title, tap in (
        ("patches", "patches"),
        ("patch embedding E_p", "patch_embedding"),
        ("class token in front", "encoder/input"),
        ("LayerNorm, row 0", "head/class_token"),
        ("head", "head/logits"),
    ):
        shape = values[tap].shape if tap in values else None
        assert shapes[title] == str(tuple(shape[1:])), title
    drawn = {text.get_text() for text in explain.model_diagram(config, SIZE).axes[0].texts}
    assert {step.shape for step in steps} <= drawn


def test_severity_curves_show_the_scores(image):
    checkpoint = mq.Checkpoint(PARAMS, CONFIG, "native", None)
    scores = explain.severity_scores(image, checkpoint, ["jpeg", "contrast"], (0, 1))
    [untouched] = mq.score(image, checkpoint)
    assert scores["jpeg"][0] == scores["contrast"][0] == untouched.value
    assert scores["jpeg"][1] != scores["contrast"][1]
    axis = explain.severity_curves(scores, (0, 1)).axes[0]
    for line, (name, values) in zip(axis.lines, scores.items(), strict=True):
        assert line.get_label() == name
        np.testing.assert_array_equal(line.get_ydata(), values)
    looks = [(line.get_marker(), line.get_linestyle()) for line in axis.lines]
    assert looks[0] != looks[1]  # without colours, too
    with pytest.raises(ValueError, match="no distortion 'rain'"):
        explain.severity_scores(image, checkpoint, ["rain"])


def luminance(colour) -> float:
    return float(np.dot(to_rgb(colour), (0.2126, 0.7152, 0.0722)))


def test_colours_are_told_apart_without_seeing_hue():
    for name in (SEQUENTIAL, OVERLAY):
        light = [luminance(matplotlib.colormaps[name](x)) for x in np.linspace(0, 1, 9)]
        assert all(a < b for a, b in pairwise(light)), f"{name} does not grow lighter all along"
    ends = [matplotlib.colormaps[DIVERGING](x) for x in (0.1, 0.5, 0.9)]
    assert luminance(ends[1]) > max(luminance(ends[0]), luminance(ends[2]))
    assert ends[0][2] < ends[0][0]  # orange …
    assert ends[2][2] > ends[2][0]  # … against blue-violet, which no common colour blindness confuses
    assert len(set(COLOURS)) == len(COLOURS)


# ---- the page


def test_the_report_is_one_page_with_everything_in_it(tmp_path, image, capsys):
    from PIL import Image

    Image.fromarray(image).save(tmp_path / "a <b>.png")
    mq.save_checkpoint(tmp_path / "tiny.safetensors", PARAMS, CONFIG)
    out = tmp_path / "out.html"
    command = [
        "explain",
        str(tmp_path / "a <b>.png"),
        "-o",
        str(out),
        "--checkpoint",
        str(tmp_path / "tiny.safetensors"),
    ]
    assert main(command) == 0
    assert str(out) in capsys.readouterr().out
    page = out.read_text("utf-8")
    [score] = mq.score(image, mq.Checkpoint(PARAMS, CONFIG, "native", None))
    assert f'<span class="score">{score.value:.2f}</span>' in page
    assert "a &lt;b&gt;.png" in page
    assert "<b>" not in page
    assert len(re.findall(r'<img [^>]*src="data:image/(?:png|jpeg);base64,', page)) == page.count("<img ") == 6
    assert not re.search(r'(?:src|href)="(?!data:)', page)  # nothing from outside
    for scale in SCALES:
        assert f"<td>{scale.height}×{scale.width}</td><td>{scale.rows}×{scale.columns}</td>" in page
    assert "never trained" not in page


def test_the_report_of_made_up_weights_says_so(image):
    page = report_module.report(image, mq.Checkpoint(PARAMS, CONFIG, "deterministic", None))
    assert "These weights were never trained" in page


def test_the_report_does_not_say_what_rollout_cannot(image):
    page = report_module.report(image, mq.Checkpoint(PARAMS, CONFIG, "native", None))
    shares = np.concatenate([m.ravel() for m in mq.attention_rollout(PARAMS, mq.tokenize(image, CONFIG), CONFIG)])
    assert f"It keeps {1 - shares.sum():.0%} of itself" in page
    headless = {**PARAMS, "head": {name: 0 * array for name, array in PARAMS["head"].items()}}  # one score for all
    same = report_module.report(image, mq.Checkpoint(headless, CONFIG, "native", None))
    looked = re.compile(r"<h2>Where the class token looked.*?</figure>", re.S)
    assert looked.findall(page) == looked.findall(same)  # the picture cannot know what contributed
    assert "contributed" not in page


def test_explain_wants_a_kind_it_knows(tmp_path, capsys):
    assert main(["explain", "photo.jpg", "-o", str(tmp_path / "out.docx")]) == 2
    assert "does not end in .html or .png" in capsys.readouterr().err


def words(figure):
    """{what is written: its box in pixels}"""
    figure.canvas.draw()
    return {text.get_text(): text.get_window_extent() for text in figure.axes[0].texts if text.get_text() not in "…+"}


NATIVE_ONLY = mq.MusiqConfig.preset("tiny", longer_sides=(), conventions=mq.PAPER)


@pytest.mark.parametrize(
    "figure",
    [
        explain.attention_diagram(),
        explain.attention_diagram(masked=False),
        explain.block_diagram(),
        *(explain.encoder_diagram(config) for config in (mq.MusiqConfig(), CONFIG, NATIVE_ONLY)),
    ],
)
def test_the_words_of_a_drawing_are_seen_and_lie_apart(figure):
    boxes = list(words(figure).values())
    for i, box in enumerate(boxes):
        assert figure.bbox.x0 <= box.x0 <= box.x1 <= figure.bbox.x1
        assert figure.bbox.y0 <= box.y0 <= box.y1 <= figure.bbox.y1
        assert not any(box.overlaps(other) for other in boxes[:i])


def test_the_mask_is_added_before_the_division():
    order = sorted(words(explain.attention_diagram()).items(), key=lambda item: item[1].y0)
    steps = [text for text, _ in order if text in ("add $M$", "divide by $\\sqrt{D_h}$", "softmax")]
    assert steps == ["add $M$", "divide by $\\sqrt{D_h}$", "softmax"]  # Eq. 11, from bottom to top
    assert "add $M$" not in words(explain.attention_diagram(masked=False))


def test_a_block_normalises_before_each_branch():
    order = sorted((t for t in explain.block_diagram().axes[0].texts), key=lambda text: text.get_position()[1])
    parts = [t.get_text() for t in order if t.get_text() in ("LayerNorm", "multi-head attention", "MLP", "+")]
    assert parts == ["LayerNorm", "multi-head attention", "+", "LayerNorm", "MLP", "+"]


def test_the_encoder_has_the_scales_of_the_model_in_its_order():
    def scales(config):
        found = [(box.x0, text) for text, box in words(explain.encoder_diagram(config)).items() if "patches,\n" in text]
        return [text.removeprefix("patches,\n") for _, text in sorted(found)]

    assert scales(CONFIG) == ["longer side 64", "longer side 96", "native size"]
    assert scales(CONFIG.replace(native=False)) == ["longer side 64", "longer side 96"]
    paper = scales(CONFIG.replace(conventions=mq.PAPER))
    assert paper == ["native size", "longer side 64", "longer side 96"]
    added = CONFIG.replace(spatial="none")
    assert "each patch: $E_p + E_{SCE}$   (Eq. 2)" in words(explain.encoder_diagram(added))
