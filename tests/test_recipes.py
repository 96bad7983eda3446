"""Recipes: drawn apart from applied, in a fixed order of draws; the statistics are those that DegAE publishes."""

import hashlib
import itertools
from collections import Counter

import numpy as np
import pytest
import yaml
from helpers import NOISE, PARAMETERS, RAIN, ROOT

from airpipe.degradations.recipes import OPERATIONS, Drawn, apply, check_operations, degrade, draw, draw_parameter
from airpipe.errors import AirpipeError
from airpipe.settings.base import check_settings
from airpipe.settings.degrading import Draw, Recipe

CHANCES = {"gaussian_blur": 0.7, "gaussian_noise": 0.5, "poisson_noise": 0.2, "speckle_noise": 0.2, "jpeg": 0.5}
"""DegAE's chances of blur, the three noises and JPEG."""
TEST_CHANCES = {"gaussian_blur": 0.5, "gaussian_noise": 0.5, "poisson_noise": 0.0, "speckle_noise": 0.0, "jpeg": 0.0}
"""Those of its loader for tests."""
NOISES = ("gaussian_noise", "poisson_noise", "speckle_noise")
SHIPPED = yaml.safe_load((ROOT / "config" / "recipes.yaml").read_text())["recipes"]
NOTHING = 0.3
DRAWS = 20_000


def rng(seed=0):
    return np.random.default_rng(seed)


def picture(seed=0):
    return rng(seed).random((24, 30, 3), dtype=np.float32)


def transfer(name="degae", **changes) -> Recipe:
    """A shipped recipe of DegAE: five operations, shuffled half of the time, nothing in three of ten draws."""
    return Recipe.model_validate({**SHIPPED[name], **changes})


def names_of(drawn: Drawn, effective: bool = False) -> tuple[str, ...]:
    return tuple(drawn.recipe.names[step.place] for step in (drawn.effective if effective else drawn.steps))


def orders() -> dict[tuple[str, ...], float]:
    """Chance of each order of the five operations."""
    found: Counter[tuple[str, ...]] = Counter()
    for order in itertools.permutations(CHANCES):
        found[order] += 0.5 / 120
    for noises in itertools.permutations(NOISES):
        found["gaussian_blur", *noises, "jpeg"] += 0.5 / 6
    return dict(found)


def exact(chances=CHANCES) -> tuple[dict[int, float], dict[str, float], dict[str, float]]:
    """Chances of each number of operations, of each operation, and of each as the last one ("" for none)."""
    numbers, last = Counter({0: NOTHING}), Counter({"": NOTHING})
    for applied in itertools.product([False, True], repeat=len(chances)):
        chosen = [name for name, fires in zip(chances, applied, strict=True) if fires]
        chance = 1 - NOTHING
        for name in chances:
            chance *= chances[name] if name in chosen else 1 - chances[name]
        numbers[len(chosen)] += chance
        for order, share in orders().items():
            last[next((name for name in reversed(order) if name in chosen), "")] += chance * share
    return dict(numbers), {name: (1 - NOTHING) * p for name, p in chances.items()}, dict(last)


@pytest.fixture(scope="module")
def draws():
    recipe, generator = transfer(), rng(11)
    return [draw(recipe, generator) for _ in range(DRAWS)]


def assert_within_three_sigma(counts, chances):
    assert set(counts) <= set(chances)
    for value, chance in chances.items():
        sigma = np.sqrt(chance * (1 - chance) / DRAWS)
        assert counts[value] / DRAWS == pytest.approx(chance, abs=3 * sigma), value


def test_the_exact_chances_are_those_that_degae_states():
    numbers, presence, last = exact()
    assert list(numbers.values()) == pytest.approx([0.334, 0.161, 0.266, 0.184, 0.051, 0.005], abs=0.002)
    assert list(presence.values()) == pytest.approx([0.490, 0.350, 0.140, 0.140, 0.350], abs=0.002)
    stated = (0.334, 0.160, 0.150, 0.052, 0.051, 0.253)
    assert last == pytest.approx(dict(zip(("", *CHANCES), stated, strict=True)), abs=0.002)


def test_a_chain_has_the_numbers_and_the_presence_of_operations_that_degae_states(draws):
    numbers, presence, last = exact()
    assert_within_three_sigma(Counter(len(drawn.steps) for drawn in draws), numbers)
    assert_within_three_sigma(Counter(name for drawn in draws for name in names_of(drawn)), presence)
    assert_within_three_sigma(Counter((names_of(drawn) or ("",))[-1] for drawn in draws), last)
    assert all(drawn.effective == drawn.steps for drawn in draws)


def test_the_loader_of_tests_draws_fewer_operations():
    recipe, generator = transfer("degae_test"), rng(14)
    numbers, presence, last = exact(TEST_CHANCES)
    draws = [names_of(draw(recipe, generator)) for _ in range(DRAWS)]
    assert_within_three_sigma(Counter(map(len, draws)), numbers)
    assert_within_three_sigma(Counter(name for names in draws for name in names), presence)
    assert_within_three_sigma(Counter((names or ("",))[-1] for names in draws), last)


def test_of_composition_last_one_operation_counts_as_often_as_degae_states():
    recipe, generator = transfer("degae_last"), rng(12)
    drawn = [names_of(draw(recipe, generator), effective=True) for _ in range(DRAWS)]
    assert_within_three_sigma(Counter((names or ("",))[0] for names in drawn), exact()[2])
    assert max(map(len, drawn)) == 1


def test_all_orders_come_as_often_as_shuffle_and_groups_say():
    certain = [{"operation": name, "parameters": PARAMETERS[name]} for name in CHANCES]
    recipe, generator = transfer(operations=certain, nothing=0), rng(13)
    found = Counter(names_of(draw(recipe, generator)) for _ in range(DRAWS))
    expected = {order: chance * DRAWS for order, chance in orders().items()}
    assert set(found) == set(expected)
    squares = sum((found[order] - count) ** 2 / count for order, count in expected.items())
    assert squares == pytest.approx(119, abs=3 * np.sqrt(2 * 119))  # chi-squared of 120 orders


def test_parameters_are_drawn_within_their_ranges_and_only_for_what_is_applied(draws):
    named = [drawn.named() for drawn in draws]
    noisy = [one for drawn, one in zip(draws, named, strict=True) if "gaussian_noise" in names_of(drawn)]
    levels = [one["gaussian_noise.sigma"] for one in noisy if one["gaussian_noise.form"] != "correlated"]
    assert set(levels) == set(range(2, 31))
    assert np.mean(levels) == pytest.approx(16, abs=3 * np.sqrt((29**2 - 1) / 12 / len(levels)))
    assert len(noisy) == sum("gaussian_noise.sigma" in one for one in named)
    sizes = [one["kernel_size"] for one in named if "kernel_size" in one]
    assert set(sizes) == set(range(7, 26, 2))
    assert np.mean(sizes) == pytest.approx(16, abs=3 * np.sqrt(4 * 99 / 12 / len(sizes)))


def test_forms_are_drawn_by_their_shares_and_bring_their_own_parameters(draws):
    named = [drawn.named() for drawn in draws]
    for noise, largest in (("gaussian_noise", 30), ("speckle_noise", 25)):
        forms = [one[f"{noise}.form"] for one in named if f"{noise}.form" in one]
        for form, chance in {"independent": 0.4, "grey": 0.4, "correlated": 0.2}.items():
            sigma = np.sqrt(chance * (1 - chance) / len(forms))
            assert forms.count(form) / len(forms) == pytest.approx(chance, abs=3 * sigma)
        correlated = [one for one in named if one.get(f"{noise}.form") == "correlated"]
        assert {one[f"{noise}.sigma"] for one in correlated} == {largest}
        mixing = np.array([one[f"{noise}.mixing"] for one in correlated])
        assert mixing.shape[1] == 12
        assert 0 < mixing.min() < mixing.max() < 1
        assert mixing.mean() == pytest.approx(0.5, abs=3 / np.sqrt(12 * mixing.size))
        assert all((f"{noise}.mixing" in one) == (one.get(f"{noise}.form") == "correlated") for one in named)
    blurred = [one for one in named if "kernel_size" in one]
    elongated = [one for one in blurred if "angle" in one]
    assert len(elongated) / len(blurred) == pytest.approx(0.5, abs=1.5 / np.sqrt(len(blurred)))
    assert all(("angle" in one) != ("gaussian_blur.sigma" in one) for one in blurred)


def test_log_uniform_draws_exponents_uniformly():
    generator = rng(3)
    exponents = np.log10([draw_parameter(Draw(log_uniform=(100, 10_000)), generator) for _ in range(DRAWS)])
    assert (exponents.min(), exponents.max()) == pytest.approx((2, 4), abs=0.01)
    assert exponents.mean() == pytest.approx(3, abs=3 * 2 / np.sqrt(12 * DRAWS))
    assert exponents.std() == pytest.approx(2 / np.sqrt(12), rel=0.02)


def test_two_images_share_a_draw_and_not_the_noise():
    drawn = draw(Recipe.model_validate([NOISE, RAIN]), rng(4))
    generator = rng(5)
    first, second = (apply(picture(), drawn, generator) for _ in range(2))
    grain = [image - picture() for image in (first, second)]
    assert not np.array_equal(first, second)
    strength = [np.minimum(one, 0).std() for one in grain]  # rain only adds
    assert strength[0] == pytest.approx(strength[1], rel=0.1)
    other = draw(Recipe.model_validate([NOISE, RAIN]), rng(4))
    assert other == drawn
    np.testing.assert_array_equal(apply(picture(), other, rng(5)), first)


def test_operations_without_randomness_of_their_own_give_equal_images_for_one_draw():
    blur = {"operation": "motion_blur", "parameters": {"length": {"uniform": [3, 9]}, "angle": {"uniform": [0, 180]}}}
    drawn = draw(Recipe.model_validate([blur]), rng(1))
    np.testing.assert_array_equal(apply(picture(), drawn, rng(2)), apply(picture(), drawn, rng(3)))


def test_a_chain_applies_each_operation_to_the_result_and_last_only_the_last_to_the_original():
    written = [{"operation": name, "parameters": PARAMETERS[name]} for name in ("low_light", "defocus_blur", "jpeg")]
    dark, blurred, packed = (OPERATIONS[one["operation"]] for one in written)
    image, generator = picture(), rng(8)
    chained = dark(image, generator, **PARAMETERS["low_light"])
    chained = packed(blurred(chained, generator, diameter=7), generator, quality=20)
    found, drawn = degrade(image, Recipe.model_validate(written), rng(8))
    np.testing.assert_array_equal(found, chained)
    assert names_of(drawn, effective=True) == ("low_light", "defocus_blur", "jpeg")
    last = Recipe.model_validate({"operations": written, "composition": "last"})
    found, drawn = degrade(image, last, rng(8))
    np.testing.assert_array_equal(found, packed(image, rng(), quality=20))
    assert names_of(drawn) == ("low_light", "defocus_blur", "jpeg")
    assert drawn.named() == {"quality": 20}


def test_a_draw_of_nothing_leaves_the_image_as_it_is():
    recipe = transfer(operations=[{**NOISE, "chance": 0}], groups=[])
    for composition in ("chain", "last"):
        changed, drawn = degrade(picture(), recipe.model_copy(update={"composition": composition}), rng())
        np.testing.assert_array_equal(changed, picture())
        assert drawn.steps == ()


def test_of_a_plain_list_every_operation_draws_parameters_and_then_its_randomness():
    generator, expected, parameters = rng(21), picture(), []
    for operation in Recipe.model_validate([NOISE, RAIN, NOISE]).operations:
        parameters.append({name: draw_parameter(how, generator) for name, how in operation.parameters.items()})
        expected = OPERATIONS[operation.operation](expected, generator, **parameters[-1])
    found, drawn = degrade(picture(), Recipe.model_validate([NOISE, RAIN, NOISE]), rng(21))
    np.testing.assert_array_equal(found, expected)
    assert [step.parameters for step in drawn.steps] == parameters


def test_pixels_of_a_seed_never_change():
    """Operations in NumPy alone, so that the bits depend on no image library."""
    shift = {"contrast": {"uniform": [0.6, 1.3]}, "brightness": {"uniform": [-0.15, 0.15]}}
    recipe = [{"operation": "colour_shift", "parameters": shift}, NOISE]
    grey = np.full((8, 9, 3), 0.25, np.float32)
    found, drawn = degrade(grey, Recipe.model_validate(recipe), rng(7))
    assert hashlib.sha256(found.tobytes()).hexdigest()[:16] == "0064da768e85c984"
    assert drawn.named() == pytest.approx({"contrast": 1.0376, "brightness": 0.1192, "sigma": 25}, abs=1e-4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shufle": 0.5}, "unknown setting 'shufle'; did you mean 'shuffle'?"),
        ({"shuffle": 1.5}, "shuffle: Input should be less than or equal to 1"),
        ({"nothing": 1}, "nothing: Input should be less than 1"),
        ({"composition": "first"}, "composition: Input should be 'chain' or 'last'"),
        ({"operations": [{**NOISE, "chance": 1.1}]}, "chance: Input should be less than or equal to 1"),
        ({"operations": [{**NOISE, "chance": -0.1}]}, "chance: Input should be greater than or equal to 0"),
        ({"groups": [["gausian_noise"]]}, "groups: unknown operation of this recipe 'gausian_noise'; did you mean"),
        ({"groups": [["gaussian_noise"], ["gaussian_noise"]]}, "groups: an operation is named twice"),
        ({"operations": [{**NOISE, "parameters": {"sigma": {"log_uniform": [0, 1]}}}]}, "needs two positive numbers"),
        ({"operations": [{**NOISE, "parameters": {"sigma": {"log_uniform": [9, 1]}}}]}, "runs backwards"),
        ({"operations": [{**NOISE, "parameters": {"sigma": {"uniform": [0, 1], "constant": 1}}}]}, "give exactly one"),
        ({"operations": [{**NOISE, "forms": [{"share": 0, "parameters": {}}]}]}, "share: Input should be gr"),
        ({"operations": [{**NOISE, "parameters": {"sigma": {"uniform": [0, 1], "size": 0}}}]}, "size: Input should be"),
    ],
)  # fmt: skip
def test_mistakes_in_recipes_are_told(changes, message):
    with pytest.raises(AirpipeError) as caught:
        check_settings(Recipe, {"operations": [NOISE, RAIN], **changes}, "recipes.x")
    assert message in str(caught.value)


def test_both_ends_of_a_log_uniform_parameter_are_tried():
    recipe = Recipe.model_validate([{"operation": "jpeg", "parameters": {"quality": {"log_uniform": [10, 90]}}}])
    with pytest.raises(AirpipeError, match=r"'quality' is 10\.0; expected a whole number"):
        check_operations(recipe, "recipes.x")


def test_a_plain_list_and_its_mapping_are_one_recipe_and_operations_that_come_again_have_names():
    recipe = Recipe.model_validate([NOISE, RAIN, NOISE])
    assert recipe == Recipe.model_validate({"operations": [NOISE, RAIN, NOISE]})
    assert recipe == Recipe.model_validate(recipe.model_dump(mode="json"))
    assert recipe.names == ("gaussian_noise", "rain_streaks", "gaussian_noise.2")
    assert not Recipe()
    grouped = Recipe.model_validate(
        {"operations": [NOISE, RAIN, NOISE], "groups": [["rain_streaks", "gaussian_noise.2"]]}
    )
    found = {names_of(draw(grouped, rng(seed))) for seed in range(40)}
    first, rain, again = recipe.names
    assert found == {(first, rain, again), (first, again, rain)}


def test_fixed_values_replace_draws_wherever_the_parameter_occurs():
    fixed = Recipe.model_validate([NOISE, RAIN, NOISE]).with_fixed({"sigma": 3})
    assert draw(fixed, rng()).named()["gaussian_noise.sigma"] == 3
    assert draw(fixed, rng()).named()["gaussian_noise.sigma.2"] == 3
    forms = [draw(transfer(nothing=0).with_fixed({"angle": 0}), rng(seed)).named() for seed in range(40)]
    assert {one["angle"] for one in forms if "angle" in one} == {0}
    with pytest.raises(ValueError, match="unknown parameter 'sigm'; did you mean 'sigma'"):
        fixed.with_fixed({"sigm": 3})
