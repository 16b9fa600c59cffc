"""Words and numbers are checked: in the constructor, in new groups, and in groups that were edited."""

import math
from typing import Any

import pytest
import torch

from cases_optim import (
    Make,
    assert_same,
    every,
    give_gradients,
    keys,
    parameters,
    run,
)
from ravine.errors import UserError
from ravine.optim import (
    OF_RULE,
    QHM,
    SGDP,
    Adam,
    AdamP,
    Momentum,
)


def test_a_misspelt_keyword_is_a_type_error_and_names_the_nearest() -> None:
    for wrong, right in {"momentun": "momentum", "weight_decya": "weight_decay", "learning": "lr"}.items():
        with pytest.raises(TypeError, match=f"Momentum has no option '{wrong}'.*'?{right}"):
            Momentum(parameters(), **{wrong: 0.5})  # type: ignore[arg-type]
    with pytest.raises(UserError, match="Adam has no option 'beta'"):
        Adam(parameters(), beta=0.5)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="positional"):
        Momentum(parameters(), 0.1, 0.9)  # type: ignore[call-arg]


@every
def test_misspelt_names_raise(make: Make) -> None:
    optimizer = make(parameters())
    with pytest.raises(TypeError, match="momentun"):
        make(parameters(), momentun=0.9)
    for name in keys(optimizer):
        wrong = name[:-1] + "q"
        with pytest.raises(UserError, match=f"'{wrong}'"):
            make([{"params": parameters(), wrong: 0.5}])
        with pytest.raises(UserError, match=f"'{wrong}'"):
            optimizer.add_param_group({"params": parameters(1), wrong: 0.5})
        assert len(optimizer.param_groups) == 1


def test_a_misspelt_name_is_answered_by_the_nearest() -> None:
    with pytest.raises(UserError, match=r"Momentum has no option 'momentun' for a group: did you mean 'momentum'\?"):
        Momentum([{"params": parameters(), "momentun": 0.5}])
    optimizer = Momentum(parameters())
    optimizer.param_groups[0]["momentun"] = 0.5
    with pytest.raises(UserError, match="'momentun', which was added to a group: did you mean 'momentum'"):
        optimizer.step()
    del optimizer.param_groups[0]["momentun"]
    optimizer.param_groups[0]["a key of some scheduler"] = 0.5
    optimizer.step()


WRONG: list[tuple[str, Any, str]] = [
    ("lr", -0.1, r"lr is -0.1, and must lie in \[0, inf\)"),
    ("lr", math.nan, "lr is nan"),
    ("lr", math.inf, "lr is inf"),
    ("lr", "fast", "lr is 'fast': give a number"),
    ("lr", True, "lr is True"),
    ("lr", torch.ones(2), "lr is tensor"),
    ("momentum", 1.5, r"momentum is 1.5, and must lie in \[0, 1\)"),
    ("momentum", lambda step: 1.0, r"momentum is 1, and must lie in \[0, 1\)"),
    ("betas", (0.9, 1.0), r"beta2 is 1, and must lie in \[0, 1\)"),
    ("betas", 0.9, r"betas is 0.9: give \(beta1, beta2\)"),
    ("alpha", -0.5, r"alpha is -0.5, and must lie in \[0, 1\)"),
    ("eps", -1e-8, r"eps is -1e-08, and must lie in [\[(]0, inf\)"),
    ("weight_decay", -1.0, r"weight_decay is -1, and must lie in \[0, inf\)"),
]


@every
@pytest.mark.parametrize(("name", "value", "sentence"), WRONG)
def test_values_are_checked_in_the_constructor_and_in_edited_groups(
    make: Make, name: str, value: Any, sentence: str
) -> None:
    params = parameters()
    optimizer = make(params)
    if name not in keys(optimizer):
        return
    with pytest.raises(UserError, match=sentence):
        make(parameters(), **{name: value})
    with pytest.raises(UserError, match=sentence):
        optimizer.add_param_group({"params": parameters(1), name: value})
    assert len(optimizer.param_groups) == 1
    optimizer.param_groups[0][name] = value
    start = [p.detach().clone() for p in params]
    give_gradients(params, 0)
    with pytest.raises(UserError, match=sentence):
        optimizer.step()
    assert_same(params, start)


@every
def test_every_range_ends_where_it_says(make: Make) -> None:
    params = parameters()
    optimizer = make(params)
    (group,) = optimizer.param_groups
    group["schedules"].clear()
    give_gradients(params, 0)
    for name, hyper in optimizer.hyper(group).items():
        kept = group["betas"] if name.startswith("beta") else group[name]
        beyond = [hyper.low if hyper.low_open else math.nextafter(hyper.low, -math.inf)]
        beyond += [hyper.high if hyper.high_open else math.nextafter(hyper.high, math.inf)]
        for value in (*beyond, math.nan):
            optimizer.write(group, name, value)
            with pytest.raises(UserError, match=rf"^{name} is .*, and must lie in "):
                optimizer.step()
        group["betas" if name.startswith("beta") else name] = kept
    assert not optimizer.state
    optimizer.step()


SWITCHED = [("maximize", OF_RULE["lion"]), ("nesterov", SGDP), ("nesterov", AdamP), ("bias_correction", Adam)]


@pytest.mark.parametrize(("name", "make"), SWITCHED)
def test_what_is_on_or_off_is_neither_a_word_nor_a_number(name: str, make: Make) -> None:
    for value in ("no", 1, None):
        with pytest.raises(UserError, match=f"^{name} is {value!r}: give True or False"):
            make(parameters(), **{name: value})
    params = parameters()
    optimizer = make(params)
    optimizer.param_groups[0][name] = "no"
    give_gradients(params, 0)
    with pytest.raises(UserError, match=f"^{name} is 'no': give True or False"):
        optimizer.step()


@pytest.mark.parametrize(
    ("make", "wrong"),
    [
        *[(Momentum, word) for word in ("rl", "LR", "l_r", "mu", "wd", "nesterov", "dampening")],
        *[(QHM, word) for word in ("mu", "un", "learning_rate")],
        *[(Adam, word) for word in ("esp", "epz", "ep", "epsilon", "beta", "beta2", "Betas", "amsgrad")],
    ],
)
def test_short_and_foreign_words_in_edited_groups_raise(make: Make, wrong: str) -> None:
    params = parameters()
    optimizer = make(params)
    optimizer.param_groups[0][wrong] = 0.5
    give_gradients(params, 0)
    with pytest.raises(UserError, match=f"'{wrong}', which was added to a group: "):
        optimizer.step()


OWN = ("label", "layer", "lr_mult", "lr_scale", "weight_decay_mult", "depth", "tag", "id", "T_cur", "frozen")
SHORT = ("r", "l", "l1", "ln", "n", "k", "m", "norm", "decay", "mode", "eta")


@every
def test_words_of_the_users_own_in_edited_groups_are_left_alone(make: Make) -> None:
    params = parameters()
    optimizer = make(params)
    for word in (*OWN, *SHORT):
        optimizer.param_groups[0][word] = 0.5
    run(optimizer, params, range(2))


@every
def test_misspelt_names_in_edited_groups_raise_before_anything_changes(make: Make) -> None:
    params = parameters()
    optimizer = make(params)
    start = [p.detach().clone() for p in params]
    give_gradients(params, 0)
    for name in keys(optimizer):
        wrong = name + name[-1]
        optimizer.param_groups[0][wrong] = 0.5
        with pytest.raises(UserError, match=f"'{wrong}', which was added to a group: did you mean '{name}'"):
            optimizer.step()
        del optimizer.param_groups[0][wrong]
        assert_same(params, start)
        assert not optimizer.state
    optimizer.step()
