"""What the page of `musiq-ref follow` computes in a browser, certified by the kit."""

from __future__ import annotations

import numpy as np
import pytest
from browser import Browser
from follow_page import (
    PICTURES,
    SETTLED,
    STATIONS,
    as_pixels,
    click,
    go_to,
    in_a_browser,
    model,
    opened,
    press,
    wait,
    written,
)

import musiq_ref as mq
from musiq_ref.explorer import page, page_params
from musiq_ref.image.tokenize import drop_padding
from musiq_ref.model.musiq import forward
from musiq_ref.model.parameters import map_params
from musiq_ref.verify.comparison.climb import compare
from musiq_ref.verify.ladder.fixture import measured_fixture

REQUIRED = ["pixels/*", "patches", "stem/*", "patch_embedding", "encoder/*", "head/*", "score", "gradient/*"]


@pytest.fixture(scope="module")
def demo():
    return mq.load_checkpoint("demo")


@pytest.fixture(scope="module")
def html(tmp_path_factory):
    return written(tmp_path_factory.mktemp("follow"))


@pytest.fixture(scope="module")
def browser(html):
    with opened(html) as one:
        yield one


def computed(browser, names):
    """The stages and gradients that the page computes, by the kit's names."""
    found = {}
    for name in names:
        if name.startswith(("pixels/", "patch", "stem/", "spatial_", "scale_embedding", "encoder/", "head/", "score")):
            found[name] = browser.array(f"musiq.stage('{name}')")
        elif name.startswith("gradient/"):
            found[name] = browser.array(f"musiq.gradient('{name[9:]}')")
    return found


@in_a_browser
@pytest.mark.parametrize("picture", PICTURES)
def test_every_stage_and_gradient_is_numpys(picture, browser, demo):
    image, params = PICTURES[picture], page_params(demo.params)
    exact = map_params(lambda a: a.astype(np.float64), params)
    fixture = measured_fixture(demo.config, exact, image, {"weights": "float16", "image": picture, "preset": None})
    score = browser.run(f"musiq.load({as_pixels(image)})")
    result = compare(fixture, computed(browser, fixture.stages), require=REQUIRED, diagnose=False)
    assert result.passed, str(result)
    for rung in result.rungs:
        if rung.distance and fixture.stages[rung.name].tolerance.absolute is None:
            assert rung.distance.bulk < (2e-2 if rung.name.startswith("gradient/") else 1e-3), rung
    rounded = mq.Checkpoint(params, demo.config, "native", None)
    assert score == pytest.approx(mq.score(image, rounded)[0].value, abs=5e-4)
    # the largest arrays are rounded to float16 in the page; measured: 3e-3 at 20×23 pixels, under 1e-3 above
    assert score == pytest.approx(mq.score(image)[0].value, abs=5e-3)


@in_a_browser
def test_a_fault_in_the_page_is_found_and_named(html, demo, tmp_path):
    text = html.read_text(encoding="utf-8")
    assert text.count("eps = 1e-6)") == 1
    (tmp_path / "page.html").write_text(text.replace("eps = 1e-6)", "eps = 1e-5)"), encoding="utf-8")
    params = map_params(lambda a: a.astype(np.float64), page_params(demo.params))
    image = np.full((20, 23, 3), 128, np.uint8)
    fixture = measured_fixture(demo.config, params, image, {"weights": "float16", "image": "grey", "preset": None})
    browser = Browser()
    try:
        browser.open(tmp_path / "page.html")
        browser.run(f"musiq.load({as_pixels(image)})")
        names = [name for name in fixture.stages if not name.startswith("gradient/")]
        result = compare(fixture, computed(browser, names))
    finally:
        browser.close()
    assert result.first
    assert result.first.name.endswith(("norm1", "norm2", "encoder/norm"))
    assert "LayerNorm with ε 1e-5" in str(result)


@in_a_browser
def test_what_is_changed_is_computed_as_numpy_does(browser, html, demo):
    browser.open(html, "#pixels/token_4")
    tokens = mq.batch([drop_padding(mq.tokenize(PICTURES["landscape"], demo.config))])
    params = page_params(demo.params)

    def muted(name, array):
        return (
            array * (np.arange(array.shape[1]) != 1)[:, None, None]
            if name.endswith("block_00/attention/heads")
            else array
        )

    def score(tokens, tap=None):
        return float(forward(params, tokens, demo.config, tap=tap)[0][0, 0])

    click(browser, "#actions button:nth-child(3)")
    go_to(browser, "attention/token_4")
    before = browser.run("musiq.score")
    press(browser, "#drawing", "ArrowRight")
    wait(browser, f"musiq.score !== {before} && {SETTLED}")
    places = tokens.hash_index.copy()
    places[0, 4] = places[0, 5]
    assert browser.run("musiq.score") == pytest.approx(score(tokens._replace(hash_index=places)), abs=2e-4)
    click(browser, "#actions button:nth-child(4)")
    assert browser.run("musiq.score") == pytest.approx(score(tokens), abs=2e-4)
    click(browser, ".head-choice:nth-of-type(2) .mute")
    assert browser.run("musiq.score") == pytest.approx(score(tokens, muted), abs=2e-4)
    click(browser, "#actions button:nth-child(4)")
    click(browser, "#actions button:nth-child(1)")
    hidden = browser.run("musiq.changes.hidden")
    mask = tokens.mask.copy()
    mask[0, hidden] = False
    assert 4 in hidden
    assert browser.run("musiq.score") == pytest.approx(score(tokens._replace(mask=mask)), abs=2e-4)


@in_a_browser
@pytest.mark.parametrize("outputs", [1, 10])
def test_a_deeper_model_has_all_its_blocks(outputs, browser, tmp_path):
    deeper, image = model(5, 96, outputs), PICTURES["portrait"]
    (tmp_path / "page.html").write_text(page(image, deeper), encoding="utf-8")
    browser.complaints.clear()
    browser.resize(390)
    browser.open(tmp_path / "page.html", "#block_00/mlp")
    assert browser.run("musiq.score") == pytest.approx(mq.score(image, deeper)[0].value, abs=0.03)
    for block in range(2, 6):
        click(browser, "#deeper")
        assert f"block {block} of 5" in browser.run("document.querySelector('.step').textContent")
        assert browser.run("document.documentElement.scrollWidth") <= 390
        go_to(browser, f"block_{block - 1:02d}/mlp")
    assert not browser.run("document.querySelector('#deeper')")
    for view in [f"{back}{name}" for back in ("", "reverse/") for name in STATIONS]:
        go_to(browser, view)
        assert browser.run("document.documentElement.scrollWidth") <= 390, view
    for number in (1, 5, 8, 14):
        go_to(browser, f"predict/{number}")
        click(browser, ".option", "document.querySelector('.verdict')")
    assert browser.complaints == []


@in_a_browser
def test_a_model_with_parts_left_out_has_all_stations(browser, tmp_path):
    config = mq.MusiqConfig.preset(
        "tiny", stem="linear", spatial="none", scale_embedding=False, longer_sides=(40,), native=False, patch_size=8
    )
    bare, image = mq.Checkpoint(mq.init_params(config, seed=3), config, "native", None), PICTURES["tiny"]
    (tmp_path / "page.html").write_text(page(image, bare), encoding="utf-8")
    browser.complaints.clear()
    browser.open(tmp_path / "page.html", "#pixels/token_1")
    assert browser.run("musiq.score") == pytest.approx(mq.score(image, bare)[0].value, abs=1e-4)
    for view in [f"{back}{name}" for back in ("", "reverse/") for name in STATIONS]:
        browser.run(f"location.hash = '{view}'")
        wait(browser, f"{SETTLED} && document.querySelector('#sum .terms')")
    for number in (5, 6, 13):
        go_to(browser, f"predict/{number}")
        click(browser, ".option", "document.querySelector('.verdict')")
    assert browser.complaints == []
