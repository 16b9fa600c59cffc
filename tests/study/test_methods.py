import pytest

from ravine import rules
from ravine.errors import UserError
from ravine.study import methods
from ravine.study.methods import METHODS, Method


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_a_method_says_of_every_hyper_parameter_of_its_rule_whether_it_is_searched_or_fixed(method: Method) -> None:
    searched = {axis.name for axis in method.axes}
    random = () if method.second_order else rules.get(method.rule).random
    assert searched | set(method.fixed) | set(random) == set(method.hyper)
    assert not searched & set(method.fixed)
    assert {name for name, _ in method.defaults} == searched


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_fixed_values_and_default_learning_rates_are_those_of_the_rule(method: Method) -> None:
    assert dict(method.fixed) == {name: method.hyper[name].default for name in method.fixed}
    assert dict(method.defaults)["lr"] == method.hyper["lr"].default


def test_the_first_axis_is_the_learning_rate_and_only_it_has_no_anchor() -> None:
    for method in METHODS.values():
        assert [axis.kind for axis in method.axes] == ["lr", "complement"][: len(method.axes)]
        assert set(method.anchors) == {axis.name for axis in method.axes[1:]}


def test_momentum_methods_contain_gradient_descent_at_momentum_zero() -> None:
    faces = {name: method.face for name, method in METHODS.items() if method.face}
    assert set(faces) == {
        *("momentum", "nesterov", "ema-momentum", "ema-nesterov", "sutskever-momentum", "sutskever-nesterov"),
        *("early-momentum", "qhm"),
    }
    assert {(face.method, face.axis, face.value) for face in faces.values()} == {("sgd", "momentum", 0.0)}


def test_what_is_held_fixed_is_a_caveat() -> None:
    assert METHODS["adam"].caveats == (
        "adam: beta2 is held at 0.999, not tuned.",
        "adam: eps is held at 1e-08, not tuned.",
    )
    assert METHODS["sgd"].caveats == ()
    assert METHODS["hessian-free"].caveats[-1] == (
        "hessian-free: its lr is 1 / damping at the start; a step costs it many gradients, all counted."
    )


def test_an_unknown_method_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(UserError, match="did you mean 'nesterov'"):
        methods.get("nestorov")
    with pytest.raises(UserError, match="did you mean 'adam'"):
        methods.get("Adam")
    with pytest.raises(UserError, match="choose from sgd, momentum"):
        methods.get("xyzzy")
