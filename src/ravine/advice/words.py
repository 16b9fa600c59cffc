"""An advice in sentences."""

from __future__ import annotations

from ravine.advice.api import Advice, Regime, Setting

REGIMES: dict[Regime, str] = {
    "curvature-limited": "curvature limits the step: plain SGD would take a larger one if it were stable",
    "noise-limited": "noise limits the step: plain SGD does best far below the largest stable learning rate",
    "between": "noise and curvature both limit the step of plain SGD",
}


def sentences(advice: Advice) -> list[str]:
    """What an advice says, the verdict first."""
    found = [
        f"Predicted for momentum against plain SGD on '{advice.problem}' ({advice.endpoint} after {advice.steps} steps"
        f" of {advice.batch_size} rows): {advice.verdict}, with probability {advice.probability:.2f}.",
        f"Regime: {advice.regime}; {REGIMES[advice.regime]}.",
        _noise(advice),
        f"Take {_words(advice.recommended)}.",
    ]
    if advice.verdict == "equal":
        found.append(
            f"Without the velocity you save {_size(advice.memory_saved)}; if you keep momentum"
            f" {advice.with_momentum.momentum:g}, the learning rate that matches is"
            f" {advice.matched_lr:.3g}."
        )
    if advice.verdict == "pays" and advice.headroom > 1:
        found.append(
            f"It allows an effective learning rate {advice.headroom:.3g} times the largest stable one of plain SGD."
        )
    if advice.batch_size_advised is not None:
        found.append(f"Batches of up to about {advice.batch_size_advised} rows make each row count.")
    return found


def _noise(advice: Advice) -> str:
    last = advice.points[-1]
    if last.noise_scale is not None:
        half = f" ± {last.noise_scale_error:.2g}" if last.noise_scale_error is not None else ""
        noise = f"a noise scale of {last.noise_scale:.3g}{half} rows"
    elif last.noise_scale_at_least is not None:
        noise = f"a noise scale above {last.noise_scale_at_least:.3g} rows (noise hides the gradient)"
    else:
        noise = "no gradient noise to speak of"
    return f"Measured at step {last.step}: sharpness {last.sharpness:.3g}, {noise}."


def _words(setting: Setting) -> str:
    if setting.method == "sgd":
        return f"plain SGD with learning rate {setting.lr:.3g}"
    form = "Nesterov's momentum" if setting.method == "nesterov" else "heavy-ball momentum"
    return f"{form} {setting.momentum:g} with learning rate {setting.lr:.3g} (torch.optim.SGD)"


def _size(count: int) -> str:
    for unit in ("bytes", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.3g} {unit}"
        count = count / 1024  # type: ignore[assignment]
    return f"{count:.3g} GiB"
