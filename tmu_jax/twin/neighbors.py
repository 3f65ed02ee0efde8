"""Distances to the nearest rows of a bank of embeddings, exact and in bounded memory.

The squared distances of a block of queries to the whole bank come from one matrix product,
`|q|^2 - 2 q.b + |b|^2`. In float32 that form loses near-duplicates to cancellation, so it only nominates candidates;
the distances returned are recomputed from the differences. A query for which rounding might have hidden a nearer row
is recognised (see `_is_certain`) and answered by differences over the whole bank.
"""

import functools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

# `top_k` over a whole bank is slow on CPUs: the least minima of tiles of this many rows are found first.
_TILE_ROWS = 32
# Candidates beyond k: what rounding may put in the wrong order, without a search of the whole bank.
_SPARE_CANDIDATES = 4
# Entries of one block of distances when the caller sets no block size (64 MiB of float32).
_BLOCK_ENTRIES = 2**24
# Most queries of a block on a CPU: what is computed from their distances finds more of them in its cache.
_QUERIES_ON_CPU = 256
# Queries searched together over the whole bank; a fixed number, so that this compiles once for a bank.
_SEARCH_ROWS = 64


def nearest_distances(
    queries: ArrayLike,
    bank: ArrayLike,
    *,
    k: int = 5,
    query_groups: ArrayLike | None = None,
    bank_groups: ArrayLike | None = None,
    block_size: int | None = None,
) -> jax.Array:
    """Euclidean distances from each query to its k nearest rows of the bank, ascending.

    With groups, only the bank rows of a query's own group count: each class has its own bank. The function looks at
    the values it is given and is therefore not itself traceable; its work is compiled.

    Args:
        queries: float32[n, d], finite.
        bank: float32[m, d], finite, at least one row.
        k: how many distances, at least 1. Where fewer than k bank rows are allowed, the missing entries are +inf.
        query_groups: int32[n]; given together with `bank_groups` or not at all.
        bank_groups: int32[m].
        block_size: most queries taken together; a block holds block_size x m distances, by default at most 64 MiB.

    Returns:
        float32[n, k], each row ascending, +inf where the bank has no further row for the query.

    Raises:
        ValueError: on mismatched shapes, values that are not finite (or whose squares are not), an empty bank, k < 1
            or block_size < 1.
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    if block_size is not None and block_size < 1:
        raise ValueError(f"block_size must be at least 1, got {block_size}")
    if (query_groups is None) != (bank_groups is None):
        raise ValueError("query_groups and bank_groups must be given together, got only one of them")
    query_rows = _checked_rows("queries", queries, query_groups)
    bank_rows = _checked_rows("bank", bank, bank_groups)
    (num_queries, columns), (num_bank, bank_columns) = query_rows[0].shape, bank_rows[0].shape
    if columns != bank_columns:
        raise ValueError(f"queries and bank must have equally many columns, got {columns} and {bank_columns}")
    if num_bank == 0:
        raise ValueError("bank must have at least one row, got none")
    if num_queries == 0:
        return jnp.zeros((0, k), jnp.float32)

    found = min(k, num_bank)
    most = block_size or _queries_together(num_bank)
    block = math.ceil(num_queries / math.ceil(num_queries / most))
    results = _nearest(*query_rows, *bank_rows, k=found, block=block)
    distances, certain = (np.array(part) for part in results)
    doubtful = np.flatnonzero(~certain)
    for start in range(0, doubtful.size, _SEARCH_ROWS):
        rows = doubtful[start : start + _SEARCH_ROWS]
        searched = _search(*(part[np.resize(rows, _SEARCH_ROWS)] for part in query_rows), *bank_rows, k=found)
        distances[rows] = np.asarray(searched)[: rows.size]
    missing = np.full((num_queries, k - found), np.inf, np.float32)
    return jnp.asarray(np.concatenate([distances, missing], axis=1))


def mean_nearest_distance(
    queries: ArrayLike,
    bank: ArrayLike,
    *,
    k: int = 5,
    query_groups: ArrayLike | None = None,
    bank_groups: ArrayLike | None = None,
    block_size: int | None = None,
) -> jax.Array:
    """Mean of the distances to the k nearest bank rows, or to all allowed ones where they are fewer than k.

    Args:
        queries: as for `nearest_distances`, and so are the other arguments.
        bank: float32[m, d].
        k: how many of the smallest distances are averaged.
        query_groups: int32[n] or None.
        bank_groups: int32[m] or None.
        block_size: most queries taken together.

    Returns:
        float32[n].

    Raises:
        ValueError: as `nearest_distances`, and when a query has no bank row of its group.

    References:
        Ji et al. 2024, Towards Aligned Data Removal via Twin Machine Unlearning (arXiv 2408.11433), the feature NF.
    """
    distances = nearest_distances(
        queries, bank, k=k, query_groups=query_groups, bank_groups=bank_groups, block_size=block_size
    )
    mean, num_finite = _mean_of_finite(distances)
    without = np.flatnonzero(np.asarray(num_finite) == 0)
    if without.size:
        raise ValueError(
            f"every query needs a bank row of its group; {without.size} have none, the first in row {without[0]}"
        )
    return mean


@jax.jit
def _mean_of_finite(distances: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Means of the finite numbers of each row [n], and how many those are [n]."""
    finite = jnp.isfinite(distances)
    num_finite = jnp.sum(finite, axis=1)
    return jnp.sum(jnp.where(finite, distances, 0.0), axis=1) / num_finite.astype(distances.dtype), num_finite


def _queries_together(num_bank: int) -> int:
    """Queries of a block when the caller sets no number."""
    most = max(1, _BLOCK_ENTRIES // num_bank)
    return min(most, _QUERIES_ON_CPU) if jax.default_backend() == "cpu" else most


@functools.partial(jax.jit, static_argnames=("k", "block"))
def _nearest(
    queries: jax.Array, query_groups: jax.Array, bank: jax.Array, bank_groups: jax.Array, *, k: int, block: int
) -> tuple[jax.Array, jax.Array]:
    """Distances float32[n, k] and whether they are certain, bool[n], from blocks of so many queries."""
    chex.assert_rank([queries, bank], 2)
    nearest = functools.partial(_nearest_of_block, bank=bank, bank_groups=bank_groups, bank_squares=_squares(bank), k=k)
    blocks = _blocks(queries, block), _blocks(query_groups, block)
    distances, certain = jax.lax.map(lambda one: nearest(*one), blocks)
    return distances.reshape(-1, k)[: len(queries)], certain.reshape(-1)[: len(queries)]


def _blocks(rows: jax.Array, block: int) -> jax.Array:
    """Rows [blocks, block, ...], with zeros behind the last."""
    missing = -len(rows) % block
    return jnp.pad(rows, ((0, missing), *((0, 0) for _ in rows.shape[1:]))).reshape(-1, block, *rows.shape[1:])


def _nearest_of_block(
    queries: jax.Array,
    query_groups: jax.Array,
    *,
    bank: jax.Array,
    bank_groups: jax.Array,
    bank_squares: jax.Array,
    k: int,
) -> tuple[jax.Array, jax.Array]:
    """The k nearest among candidates chosen by rounded distances, and whether they are certain."""
    products = jnp.matmul(queries, bank.T, precision=jax.lax.Precision.HIGHEST)
    query_squares = _squares(queries)

    def rounded(products: jax.Array, squares: jax.Array, groups: jax.Array) -> jax.Array:
        """Squared distances; called on the whole and on a few, so that of the whole only the products are stored."""
        distances = (query_squares[:, None] + squares) - 2.0 * products
        return jnp.where(query_groups[:, None] == groups, distances, jnp.inf)

    # Tile g holds the rows g, g + num_tiles, ...: minima over a leading axis vectorise. Rows that fill no tile are
    # looked at for every query.
    num_tiles = len(bank) // _TILE_ROWS
    tiled = num_tiles * _TILE_ROWS
    members = jnp.broadcast_to(jnp.arange(tiled, len(bank)), (len(queries), len(bank) - tiled))
    threshold = jnp.full(len(queries), jnp.inf)
    num_chosen = min(k + _SPARE_CANDIDATES, num_tiles)
    if num_chosen:
        whole = rounded(products[:, :tiled], bank_squares[None, :tiled], bank_groups[None, :tiled])
        least_minima, tiles = _smallest(jnp.min(whole.reshape(-1, _TILE_ROWS, num_tiles), axis=1), num_chosen)
        of_tiles = jnp.arange(_TILE_ROWS)[None, :, None] * num_tiles + tiles[:, None, :]
        members = jnp.concatenate([of_tiles.reshape(len(queries), -1), members], axis=1)
        if num_chosen < num_tiles:
            threshold = least_minima[:, -1]
    num_candidates = min(k + _SPARE_CANDIDATES, members.shape[1])
    of_members = rounded(jnp.take_along_axis(products, members, axis=1), bank_squares[members], bank_groups[members])
    least, positions = _smallest(of_members, num_candidates)
    candidates = jnp.take_along_axis(members, positions, axis=1)
    if num_candidates < members.shape[1]:
        threshold = jnp.minimum(threshold, least[:, -1])
    # Where the rounded distance is infinite the candidate is of another group.
    squares = jnp.where(jnp.isfinite(least), _squares(queries[:, None, :] - bank[candidates]), jnp.inf)
    nearest, _ = _smallest(squares, k)
    return jnp.sqrt(nearest), _is_certain(query_squares, nearest[:, -1], threshold, queries.shape[1])


def _is_certain(query_squares: jax.Array, kth: jax.Array, threshold: jax.Array, columns: int) -> jax.Array:
    """Whether no row that is not a candidate can be nearer than the k-th candidate, whose squared distance is `kth`.

    Every such row has a rounded squared distance of at least `threshold`. One that is truly nearer than r = sqrt(kth)
    has a norm of at most |q| + r, so that its terms sum to at most (2|q| + r)^2 and its rounding error, growing as the
    square root of the number of terms, stays within `margin`.
    """
    scale = jnp.square(2.0 * jnp.sqrt(query_squares) + jnp.sqrt(kth))
    margin = math.sqrt(columns) * float(jnp.finfo(kth.dtype).eps) * scale
    return kth + margin <= threshold


@functools.partial(jax.jit, static_argnames=("k",))
def _search(
    queries: jax.Array, query_groups: jax.Array, bank: jax.Array, bank_groups: jax.Array, *, k: int
) -> jax.Array:
    """The k nearest by differences to every bank row, float32[n, k]: exact, and slower than candidates."""

    def search(one: tuple[jax.Array, jax.Array]) -> jax.Array:
        query, group = one
        squares = _squares(bank - query[None, :])
        return jnp.sqrt(_smallest(jnp.where(bank_groups == group, squares, jnp.inf), k)[0])

    return jax.lax.map(search, (queries, query_groups))


def _squares(rows: jax.Array) -> jax.Array:
    return jnp.sum(jnp.square(rows), axis=-1)


@jax.jit
def _are_usable(rows: jax.Array) -> jax.Array:
    """Whether all rows are finite and sums of a few of their squared norms do not overflow; NaN compares as false."""
    return jnp.all(_squares(rows) < float(jnp.finfo(jnp.float32).max) / 16)


def _smallest(values: jax.Array, count: int) -> tuple[jax.Array, jax.Array]:
    negative, positions = jax.lax.top_k(-values, count)
    return -negative, positions


def _checked_rows(name: str, rows: ArrayLike, groups: ArrayLike | None) -> tuple[jax.Array, jax.Array]:
    """The rows as float32[n, d] and their groups as int32[n], one group for all where there are none."""
    array = jnp.asarray(rows)
    if array.ndim != 2 or array.shape[1] == 0:
        raise ValueError(f"{name} must have shape [rows, columns] with at least one column, got {array.shape}")
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise ValueError(f"{name} must be floating point, got {array.dtype}")
    array = array.astype(jnp.float32)
    if not bool(_are_usable(array)):
        raise ValueError(f"{name} must be finite, with norms below 4e18; some rows are not")
    if groups is None:
        return array, jnp.zeros(array.shape[0], jnp.int32)
    group_array = jnp.asarray(groups)
    if group_array.shape != array.shape[:1] or not jnp.issubdtype(group_array.dtype, jnp.integer):
        raise ValueError(
            f"the groups of {name} must be integers of shape {array.shape[:1]}, "
            f"got {group_array.dtype} of shape {group_array.shape}"
        )
    return array, group_array.astype(jnp.int32)
