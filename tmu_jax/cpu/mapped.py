"""Functions with a path of their own for the CPU, that can be mapped over and differentiated."""

from collections.abc import Callable

import jax
from jax import Array, lax


def mapped(
    on_cpu: Callable[[Array, Array], Array], library: Callable[[Array, Array], Array], shares_second: bool
) -> Callable[[Array, Array], Array]:
    """A function of two arrays with a path for the CPU, one for other platforms, and its own batching rule.

    Args:
        on_cpu: what runs on a CPU.
        library: what runs elsewhere.
        shares_second: whether, where the second argument is not mapped, the first one's mapped axis can be folded into
            its first axis (of images, or of rows).
    """

    @jax.custom_batching.custom_vmap
    @jax.jit
    def function(first: Array, second: Array) -> Array:
        return lax.platform_dependent(first, second, cpu=on_cpu, default=library)

    @function.def_vmap
    def rule(axis_size: int, is_mapped: list[bool], first: Array, second: Array) -> tuple[Array, bool]:
        if shares_second and not is_mapped[1]:
            folded = function(first.reshape(-1, *first.shape[2:]), second)
            return folded.reshape(axis_size, -1, *folded.shape[1:]), True
        args = (first, second)

        def one(taken: tuple[Array, ...]) -> Array:
            rest = iter(taken)
            return function(*(next(rest) if one_is else arg for arg, one_is in zip(args, is_mapped, strict=True)))

        return lax.map(one, tuple(arg for arg, one_is in zip(args, is_mapped, strict=True) if one_is)), True

    return function


def product(
    forward: Callable[[Array, Array], Array],
    input_gradient: Callable[[Array, Array], Array],
    weight_gradient: Callable[[Array, Array], Array],
) -> Callable[[Array, Array], Array]:
    """A function that is linear in its inputs and in its kernel, with the gradients of both; in reverse mode, once.

    Args:
        forward: (inputs, kernel) -> outputs.
        input_gradient: (cotangent of the outputs, kernel) -> cotangent of the inputs.
        weight_gradient: (inputs, cotangent of the outputs) -> cotangent of the kernel.
    """

    @jax.custom_vjp
    def function(inputs: Array, kernel: Array) -> Array:
        return forward(inputs, kernel)

    def function_fwd(inputs: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
        return forward(inputs, kernel), (inputs, kernel)

    def function_bwd(residuals: tuple[Array, Array], cotangent: Array) -> tuple[Array, Array]:
        inputs, kernel = residuals
        return input_gradient(cotangent, kernel), weight_gradient(inputs, cotangent)

    function.defvjp(function_fwd, function_bwd)
    return function
