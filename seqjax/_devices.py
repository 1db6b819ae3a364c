"""Where a batch and the parameters lie, if several devices share the work."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from seqjax import _checks
from seqjax._types import PyTree

__all__ = ["DataParallel", "data_parallel"]


def data_parallel(devices: Sequence[Any] | None = None) -> "DataParallel":
    """Places a batch over devices, and copies of the parameters on each of them.

    All that training on several devices needs: what is computed of arrays so placed runs on all
    of them, and the gradient of the parameters is summed over them once an update. `make_step`
    leaves everything where it is.

    Args:
      devices: on which; if None all that JAX has, those of other processes among them. A CPU is
        one device unless it is told otherwise before anything runs:
        `jax.config.update("jax_num_cpu_devices", 2)`.

    Returns:
      DataParallel(mesh), whose methods place arrays: `everywhere(tree)` and `split(tree)`.

    >>> import jax, jax.numpy as jnp, optax, seqjax as sj
    >>> model, optimizer = sj.stack(sj.gru(3, 8), sj.dense(8, 1)), optax.adam(0.01)
    >>> def loss(params, xs):
    ...     return jnp.mean(jax.vmap(lambda xs: sj.unroll(model, params, xs)[1])(xs) ** 2)
    >>> devices = sj.train.data_parallel()
    >>> params = devices.everywhere(model.init(jax.random.key(0)))
    >>> opt_state = devices.everywhere(optimizer.init(params))
    >>> xs = devices.split(jnp.ones((8 * jax.device_count(), 10, 3)))
    >>> step = sj.train.make_step(loss, optimizer)
    >>> params, opt_state, report = step(params, opt_state, xs)
    """
    given: Any = jax.devices() if devices is None else devices
    if not isinstance(given, (list, tuple)) or not given:
        expected = "a list of JAX devices, such as jax.devices()"
        raise TypeError(_checks.mismatch("devices", expected, _checks.describe(devices)))
    for number, device in enumerate(given):
        _checks.instance(f"devices[{number}]", device, jax.Device, "a JAX device")
        if device in given[:number]:
            expected = "a device that is not among those before"
            raise ValueError(_checks.mismatch(f"devices[{number}]", expected, str(device)))
    return DataParallel(Mesh(np.array(given), ("batch",), axis_types=(AxisType.Auto,)))


class DataParallel(NamedTuple):
    """A way to place arrays on devices; see `data_parallel`.

    `DataParallel(mesh)` places on a mesh of your own, on explicit axes too.

    Attributes:
      mesh: the devices, along one axis, "batch".
    """

    mesh: Mesh

    def everywhere(self, tree: PyTree) -> PyTree:
        """Copies arrays to each device. With several processes, each passes the same."""
        return self._placed(PartitionSpec(), tree)

    def split(self, tree: PyTree) -> PyTree:
        """Splits arrays along their leading axis, a part for each device.

        With several processes each passes its own part, as large as that of the others.

        Raises:
          ValueError: an array without a leading axis, or one that the devices do not divide.
        """
        here = sum(d.process_index == jax.process_index() for d in self.mesh.devices.flat)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            name = "tree" + jax.tree_util.keystr(path)
            if not np.ndim(leaf) or leaf.shape[0] % here:
                expected = f"an array whose leading axis {here} devices divide"
                raise ValueError(_checks.mismatch(name, expected, _checks.describe(leaf)))
        return self._placed(PartitionSpec("batch"), tree)

    def _placed(self, spec: PartitionSpec, tree: PyTree) -> PyTree:
        sharding = NamedSharding(self.mesh, spec)
        return jax.tree.map(
            _of_key(lambda leaf: _place(sharding, leaf)), _checks.arrays("tree", tree)
        )


def _place(sharding: NamedSharding, leaf: jax.Array) -> jax.Array:
    if sharding.is_fully_addressable:
        # `device_put` may hand on the very buffer, which a training step donates.
        return jax.device_put(jnp.copy(leaf), sharding)
    return jax.make_array_from_process_local_data(sharding, np.asarray(leaf))


def _of_key(place: Callable[[jax.Array], jax.Array]) -> Callable[[jax.Array], jax.Array]:
    """The same for random keys, by their words."""

    def placed(leaf: jax.Array) -> jax.Array:
        if not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return place(leaf)
        words = place(jax.random.key_data(leaf))
        return jax.random.wrap_key_data(words, impl=jax.random.key_impl(leaf))

    return placed
