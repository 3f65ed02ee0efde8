"""The rates of a schedule, beside optax's own."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tmu_jax.training import Recipe


@pytest.mark.parametrize("num_steps", [1, 17, 1024, 1500])
def test_one_cycle_is_optaxs_to_the_last_bit(num_steps):
    with jax.numpy_dtype_promotion("standard"):
        expected = np.asarray(jax.vmap(optax.cosine_onecycle_schedule(num_steps, 0.3))(jnp.arange(num_steps)))
        factor = np.asarray(jax.vmap(optax.cosine_onecycle_schedule(num_steps, 1.0))(jnp.arange(num_steps)))
    rates = Recipe(learning_rate=0.3, schedule="onecycle").learning_rates(num_steps)
    np.testing.assert_array_equal(rates, (0.3 * factor).astype(np.float32))
    np.testing.assert_allclose(rates, expected, rtol=1e-5, atol=1e-8)


def test_a_schedule_that_is_none_is_named():
    with pytest.raises(ValueError, match="schedule='cosin'; choose 'step', 'cosine', 'onecycle' or 'constant'"):
        Recipe(schedule="cosin")
