"""The same numbers on every path, for every size, dtype, device and layout, alone or beside others."""

import math

import torch
from torch import Tensor

from ravine.testing.case import Case, arguments
from ravine.testing.checks.equations import editable
from ravine.testing.drive import apart, both, clone, give, go, leaves, raises, same, tensors_of, vector, word
from ravine.testing.outcome import Probe, applies, check, require

ROUNDING = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 0.05}
"""How far the same arithmetic may be apart after a few steps, relative to the parameters."""


@check("path parity")
def paths(case: Case) -> None:
    """foreach and fused steps equal the loop, parameters and state, from 1 to 100,000 elements, in three dtypes."""
    applies(len(case.paths) > 1, "it has one path")
    (_, first), *others = case.paths.items()
    for path, options in others:
        for dtype, rounding in ROUNDING.items():
            # Among many numbers in bfloat16 some cancel, and their signs then hang on the order of rounding.
            for size in (1, 7, 64, 65) if dtype == torch.bfloat16 else (1, 7, 64, 65, 100_000):
                with Probe(
                    case,
                    f"p, q = (torch.linspace(-1, 1, {size}, dtype={dtype}, requires_grad=True) for _ in range(2))",
                    *both(f"make([p]{arguments(first)})", f"make([q]{arguments(options)})", "4"),
                    f"assert torch.allclose(p, q, rtol={rounding}, atol={rounding}), (p - q).abs().max()",
                ):
                    p, q = vector(size, dtype), vector(size, dtype)
                    one, two = case.make([p], **first), case.make([q], **options)
                    go(one, [p], range(4))
                    go(two, [q], range(4))
                    wrong = int((p.double() - q.double()).abs().gt(rounding * (1 + p.double().abs())).sum())
                    require(
                        wrong == 0,
                        f"the {path} path leaves {wrong} of {size} elements in {word(dtype)} elsewhere than the loop",
                    )
                    mine, theirs = tensors_of(one, p), tensors_of(two, q)
                    for name in mine.keys() & theirs.keys():
                        require(
                            apart(theirs[name], mine[name]) <= rounding,
                            f"the {path} path leaves another {name} in {word(dtype)} than the loop",
                        )


@check("dtypes and groups")
def mixed(case: Case) -> None:
    """Mixed dtypes, devices and groups in one optimizer are stepped as if each were alone."""
    applies(not case.couples, "its parameters are coupled by one norm")
    devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    kinds = [(dtype, device) for device in devices for dtype in ROUNDING]
    names = editable(case, case.make([vector()]).param_groups[0])
    other = {name: case.hyper[name][1] for name in names}
    for options in case.paths.values():
        with Probe(
            case,
            f"kinds = [{', '.join(f'({dtype}, {device!r})' for dtype, device in kinds)}]",
            "ps, qs = ([torch.ones(9, dtype=d, device=at, requires_grad=True) for d, at in kinds] for _ in range(2))",
            "for p in ps + qs: p.grad = torch.ones_like(p)",
            f"for opt in (make(ps{arguments(options)}), *(make([q]{arguments(options)}) for q in qs)): opt.step()",
            "assert all(torch.allclose(p, q, rtol=1e-2) for p, q in zip(ps, qs)), (ps, qs)",
        ):
            together, alone = (
                [vector(dtype=d).detach().to(device).requires_grad_() for d, device in kinds] for _ in range(2)
            )
            joint, each = case.make(together, **options), [case.make([param], **options) for param in alone]
            for t in range(4):
                give(alone, t)
                for param, single in zip(together, alone, strict=True):
                    param.grad = clone(single.grad)
                joint.step()
                for one in each:
                    one.step()
            for param, single in zip(together, alone, strict=True):
                require(
                    apart(param, single) <= max(ROUNDING[param.dtype], case.tolerance),
                    f"beside others a {word(param.dtype)} parameter on {param.device.type} ends "
                    f"{apart(param, single):.1g} away from where it ends alone",
                )
        with Probe(
            case,
            "p, q, r = (torch.linspace(-1, 1, 9, requires_grad=True) for _ in range(3))",
            f"opt = make([{{'params': [r]}}, {{'params': [p], **{other}}}]{arguments(options)})",
            f"one = make([q]{arguments({**other, **options})})",
            "for t in range(4): p.grad, q.grad, r.grad = (torch.ones(9) for _ in range(3)); opt.step(); one.step()",
            "assert torch.allclose(p, q), (p - q).abs().max()",
        ):
            p, q, r = vector(), vector(), vector()
            optimizer = case.make([{"params": [r]}, {"params": [p], **other}], **options)
            own = case.make([q], **{**other, **options})
            for t in range(4):
                give([q], t)
                p.grad, r.grad = clone(q.grad), clone(q.grad)
                optimizer.step()
                own.step()
            require(same([p], [q], 1e-5), f"a second group ends {apart(p, q):.1g} away from where it ends alone")


@check("sizes and layouts")
def sizes(case: Case) -> None:
    """Scalars, empty, large and strided tensors are stepped alike, in bfloat16 too."""
    for shape in [(), (0,), (1,), (7,), (64,), (65,), (100_000,)]:
        steps_alike(case, shape, torch.float32, torch.float64)
    for size in (7, 64, 65):
        steps_alike(case, (size,), torch.bfloat16, torch.float32)
    with Probe(
        case,
        "p = torch.randn(6, 10).requires_grad_(); q = p.detach().t().clone().t().requires_grad_()",
        *both("make([p])", "make([q])", "3"),
        "assert torch.allclose(p, q), (p - q).abs().max()",
    ):
        p = vector(60).detach().view(6, 10).clone().requires_grad_()
        q = p.detach().t().clone().t().requires_grad_()
        one, two = case.make([p]), case.make([q])
        for t in range(3):
            give([p], t)
            q.grad = clone(p.grad)
            one.step()
            two.step()
        require(same([p], [q], 1e-5), f"a transposed parameter ends {apart(p, q):.1g} away from a contiguous one")


def steps_alike(case: Case, shape: tuple[int, ...], dtype: torch.dtype, wide: torch.dtype) -> None:
    """Three steps of a tensor, and of its copy in a wider dtype, with the same gradients."""
    limit = ROUNDING[dtype]
    start = f"torch.linspace(-1, 1, {math.prod(shape)}).reshape({shape}).to({dtype}).requires_grad_()"
    with Probe(
        case,
        f"p = {start}; q = p.detach().to({wide}).requires_grad_()",
        "for x, opt in ((p, make([p])), (q, make([q]))):",
        "    for t in range(3): torch.manual_seed(t); x.grad = torch.randn_like(p).to(x.dtype); opt.step()",
        f"assert torch.allclose(p.to({wide}), q, rtol={limit}, atol={limit}), (p - q).abs().max()",
    ):
        p = vector(math.prod(shape), dtype).detach().reshape(shape).requires_grad_()
        q = p.detach().to(wide).requires_grad_()
        one, two = case.make([p]), case.make([q])
        for t in range(3):
            give([p], t)
            q.grad = clone(p.grad, wide)
            one.step()
            two.step()
        away = apart(p, q)
        require(away <= limit, f"a {word(dtype)} parameter of shape {shape} ends {away:.1g} from its {word(wide)} copy")


def rows_of(t: int) -> Tensor:
    """The gradient of an embedding of four words, of which a step meets three, some of them twice."""
    torch.manual_seed(t)
    return torch.sparse_coo_tensor(torch.randint(4, (1, 3)), torch.randn(3, 3), (4, 3), check_invariants=True)


ROWS = "torch.manual_seed(t); p.grad = torch.sparse_coo_tensor(torch.randint(4, (1, 3)), torch.randn(3, 3), (4, 3))"
"""The same, as statements of a reproduction."""


@check("sparse gradient")
def sparse(case: Case) -> None:
    """Sparse gradients, rows repeated, give the steps of dense ones and a state no larger, or are refused."""
    none = {"weight_decay": 0.0} if "weight_decay" in case.hyper else {}  # decay is dense
    p, q = (torch.ones(4, 3, requires_grad=True) for _ in range(2))
    optimizer, other = case.make([p], **none), case.make([q], **none)
    p.grad = rows_of(0)
    if raises(optimizer.step):
        require(torch.equal(p, torch.ones(4, 3)), "a sparse gradient raises when the parameter has already moved")
        return
    with Probe(
        case,
        "p, q = (torch.ones(4, 3, requires_grad=True) for _ in range(2))",
        f"one, two = make([p]{arguments(none)}), make([q]{arguments(none)})",
        f"for t in range(9): {ROWS}; q.grad = p.grad.to_dense(); one.step(); two.step()",
        "assert torch.allclose(p, q, rtol=1e-5, atol=1e-5), (p - q).abs().max()",
    ):
        q.grad = rows_of(0).to_dense()
        other.step()
        for t in range(1, 9):
            p.grad, q.grad = rows_of(t), rows_of(t).to_dense()
            optimizer.step()
            other.step()
        require(same([p], [q], 1e-5), f"nine steps with sparse gradients end {apart(p, q):.1g} from the dense ones")
    with Probe(
        case,
        f"p = torch.ones(4, 3, requires_grad=True); opt = make([p]{arguments(none)})",
        f"for t in range(100): {ROWS}; opt.step()",
        "stored = [v._nnz() for v in opt.state[p].values() if torch.is_tensor(v) and v.is_sparse]",
        "assert all(rows <= 4 for rows in stored), f'{stored} rows are stored for the 4 of the parameter'",
    ):
        for t in range(9, 100):
            p.grad = rows_of(t)
            optimizer.step()
        stored = {name: value._nnz() for name, value in leaves(optimizer.state[p]) if value.is_sparse}
        require(
            all(rows <= 4 for rows in stored.values()),
            f"100 steps with sparse gradients leave more rows in the state than the 4 of the parameter: {stored}",
        )
