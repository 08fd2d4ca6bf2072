"""Pictures judged: distance, variety, neighbours, and the report of them."""

from __future__ import annotations

import re

import numpy as np
import pytest

from contracts.errors import StoreError
from training.demo_faces import draw_faces
from training.evaluation.pictures_distance import distance_of, kernel_distance
from training.evaluation.pictures_evaluation import NamedPictures, evaluate
from training.evaluation.pictures_features import Scale, features_of
from training.evaluation.pictures_figures import draw
from training.evaluation.pictures_neighbours import between_real, nearest, thumbnails
from training.evaluation.pictures_page import write_report
from training.evaluation.pictures_report import PictureReport
from training.evaluation.pictures_variety import effective_number, variety

RANDOM = np.random.RandomState(0)
FACES = draw_faces(240, 32)
REAL = FACES[:160]
OTHERS = FACES[160:]
NOISE = RANDOM.randint(0, 256, REAL[:60].shape).astype(np.uint8)
# A generator that has collapsed: one face, hardly changed.
ONE_FACE = np.clip(FACES[200] + RANDOM.randint(-12, 13, (60, 32, 32, 3)), 0, 255).astype(np.uint8)


def named(pixels, name="set"):
    return NamedPictures(name, pixels, [f"{name} {place}" for place in range(len(pixels))])


@pytest.fixture(scope="module")
def scale():
    return Scale(features_of(REAL))


@pytest.fixture(scope="module")
def report():
    return evaluate(named(ONE_FACE, "collapsed"), named(REAL, "real"))


def test_equal_pictures_have_equal_features_in_any_company_and_at_any_size():
    features = features_of(FACES[:70])
    assert features.shape == (70, 576)
    assert np.allclose(features[66:70], features_of(FACES[66:70]), atol=1e-5)
    doubled = FACES[:3].repeat(2, 1).repeat(2, 2)
    near, far = (np.abs(features_of(doubled) - features[places]).mean() for places in (slice(0, 3), slice(3, 6)))
    assert near < 0.5 * far


def test_features_stay_what_they_were():
    """Reports of one version compare: whoever changes the features changes the version."""
    ramp = np.arange(64 * 64 * 3, dtype=np.uint32).reshape(1, 64, 64, 3) % 251
    found = features_of(ramp.astype(np.uint8))[0]
    expected = [-0.003125, 0.58181, 0.0, 0.20941, 0.20677, 0.025657]
    assert found[[0, 95, 100, 223, 224, 575]] == pytest.approx(expected, rel=1e-3)


def test_the_distance_ranks_noise_behind_one_face_behind_other_real_faces(scale):
    real = scale(features_of(REAL))
    noise, collapsed, others = (distance_of(scale(features_of(each)), real) for each in (NOISE, ONE_FACE, OTHERS))
    assert noise.mean > 2 * collapsed.mean > 20 * abs(others.mean)
    assert (collapsed.subset, others.subset) == (60, 80)


def test_the_kernel_distance_is_the_unbiased_estimate():
    one, other = RANDOM.standard_normal((5, 3)), RANDOM.standard_normal((4, 3)) + 1

    def k(x, y):
        return (x @ y + 1) ** 3

    within_one = np.mean([k(one[i], one[j]) for i in range(5) for j in range(5) if i != j])
    within_other = np.mean([k(other[i], other[j]) for i in range(4) for j in range(4) if i != j])
    between = np.mean([k(x, y) for x in one for y in other])
    assert kernel_distance(one, other) == pytest.approx(within_one + within_other - 2 * between)


def test_samples_of_one_set_have_a_distance_around_zero():
    found = [kernel_distance(*(np.random.RandomState(seed).standard_normal((2, 40, 4)) / 2)) for seed in range(200)]
    assert abs(np.mean(found)) < 3 * np.std(found) / np.sqrt(len(found))
    assert min(found) < 0 < max(found)


def test_the_effective_number_counts_what_is_different():
    far_apart = 100 * np.eye(8)
    assert effective_number(far_apart) == pytest.approx(8)
    assert effective_number(far_apart[:1].repeat(8, 0)) == pytest.approx(1)
    assert effective_number(np.concatenate([far_apart[:4], far_apart[:4]])) == pytest.approx(4)


def test_variety_tells_one_face_from_many(scale):
    one, others, real = (variety(scale.layout(features_of(each))) for each in (ONE_FACE, OTHERS, REAL))
    assert one < 0.3 * real
    assert others > 0.8 * real


def test_the_nearest_neighbours_are_those_of_all_pairs():
    ours, theirs = RANDOM.standard_normal((300, 5)), RANDOM.standard_normal((40, 5))
    places, distances = nearest(ours, theirs, 3)
    for row in (0, 255, 256, 299):
        apart = np.linalg.norm(theirs - ours[row], axis=1)
        assert places[row].tolist() == np.argsort(apart)[:3].tolist()
        assert distances[row] == pytest.approx(np.sort(apart)[:3])
    apart = np.linalg.norm(theirs[:, None] - theirs[None], axis=2) + 1e9 * np.eye(40)
    assert sorted(between_real(theirs)) == pytest.approx(sorted(apart.min(1)))


def test_thumbnails_are_as_far_apart_as_their_colours():
    black, white, grey = (np.full((1, 20, 20, 3), value, np.uint8) for value in (0, 255, 51))
    rows = thumbnails(np.concatenate([black, white, grey]))
    assert [np.linalg.norm(rows[0] - row) for row in rows] == pytest.approx([0, 1, 0.2])


def test_a_collapsed_generator_is_reported_as_one(report):
    assert report.variety.collapsed
    assert report.variety.of == 60
    assert report.variety.share < 0.3
    assert report.distance_of_noise.mean > report.distance.mean > 1
    assert abs(report.distance_of_real.mean) < 0.05


def test_copies_of_real_pictures_are_seen():
    spoiled = np.clip(REAL[:20] + RANDOM.randint(-2, 3, REAL[:20].shape), 0, 255).astype(np.uint8)
    mixed = evaluate(named(np.concatenate([OTHERS[:60], spoiled]), "mixed"), named(REAL, "real"))
    honest = evaluate(named(OTHERS, "others"), named(REAL, "real"))
    assert mixed.neighbours.near_share >= 20 / 80
    assert honest.neighbours.near_share < 0.1
    assert not honest.variety.collapsed
    for found in mixed.neighbours.nearest:
        place = int(found.generated.split()[1]) - 60
        assert found.real[0] == f"real {place}"


def test_equal_sets_give_equal_reports(report):
    assert evaluate(named(ONE_FACE, "collapsed"), named(REAL, "real")) == report


def test_too_few_pictures_are_refused():
    with pytest.raises(StoreError, match="few has 3 pictures; 10 or more tell something"):
        evaluate(named(OTHERS[:3], "few"), named(REAL))


def test_the_report_is_one_page_numbers_and_figures_and_replaces_an_earlier_one(report, tmp_path):
    generated, real = named(ONE_FACE, "collapsed"), named(REAL, "real")
    folder = tmp_path / "deep" / "report"
    for _ in range(2):
        write_report(folder, report, draw(report, generated, real))
    assert {path.name for path in folder.iterdir()} == {"report.html", "report.json", "figures"}
    assert PictureReport.model_validate_json((folder / "report.json").read_text()) == report
    figures = sorted((folder / "figures").iterdir())
    assert [path.stem for path in figures] == ["distance", "generated", "nearest", "others", "real"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in figures)
    page = (folder / "report.html").read_text()
    assert page.count('src="data:image/png;base64,') == 5
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert "Mode collapse" in page
    assert "neither FID nor KID" in page
    assert list(folder.parent.iterdir()) == [folder]


def test_names_on_the_page_cannot_run(report, tmp_path):
    evil = report.model_copy(update={"generated": report.generated.model_copy(update={"name": "<script>x"})})
    write_report(tmp_path / "report", evil, draw(evil, named(ONE_FACE, "collapsed"), named(REAL, "real")))
    page = (tmp_path / "report" / "report.html").read_text()
    assert "<script" not in page
    assert "&lt;script&gt;x" in page


def test_a_folder_with_something_else_is_left_alone(report, tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(StoreError, match=r"holds 'thesis\.txt', which is of no report"):
        write_report(tmp_path, report, [])
    with pytest.raises(StoreError, match="is a file; give --output the name of a folder"):
        write_report(tmp_path / "thesis.txt", report, [])
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


@pytest.mark.data
def test_real_faces_are_told_from_collapsed_grids_and_noise(data_folder):
    real = NamedPictures.of_folder(data_folder / "anime_faces", 64)
    drawn = NamedPictures.of_folder(data_folder / "anime_faces_generated", 64)
    assert (len(real.pixels), len(drawn.pixels), real.skipped) == (2800, 768, {})
    mixed = np.random.RandomState(1).permutation(len(real.pixels))
    known, others = (features_of(real.pixels[places]) for places in (mixed[:400], mixed[400:600]))
    scale = Scale(known)
    noise = features_of(np.random.RandomState(2).randint(0, 256, (64, 64, 64, 3)).astype(np.uint8))
    far, near = (distance_of(scale(each), scale(known)).mean for each in (noise, others))
    varied = variety(scale.layout(others))
    for picture in range(14, 26):
        tiles = [place for place, name in enumerate(drawn.names) if name.startswith(f"{picture:04}_")]
        features = features_of(drawn.pixels[tiles])
        assert len(tiles) == 64
        assert far > 2 * distance_of(scale(features), scale(known)).mean > 50 * abs(near)
        assert variety(scale.layout(features)) < 0.5 * varied
