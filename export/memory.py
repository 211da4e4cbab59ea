"""Memory of a SavedModel that outlives a request, and takes no room on disk.

A `tf.Variable` would be saved with all its zeros. This is made anew by an initializer whenever the
model is loaded.
"""

import tensorflow as tf
from tensorflow.python.ops import handle_data_util  # what tf.Variable does, and no public call


class Memory(tf.saved_model.experimental.TrackableResource):
    """A tensor of zeros that requests change.

    Args:
      name: no two memories in a process may have the same, whatever models they belong to.
      shape, dtype: of the tensor.
    """

    def __init__(self, name, shape, dtype):
        super().__init__()
        self._name, self.shape, self.dtype = name, list(shape), tf.as_dtype(dtype)
        self._initialize()

    def _create_resource(self):
        handle = tf.raw_ops.VarHandleOp(dtype=self.dtype, shape=self.shape, shared_name=self._name)
        # Or a function that captures the handle would know neither shape nor dtype behind it.
        data = handle_data_util.create_handle_data(tf.TensorShape(self.shape), self.dtype)
        handle_data_util.set_handle_data(handle, data)
        return handle

    def _initialize(self):
        zeros = tf.zeros(self.shape, self.dtype)
        tf.raw_ops.AssignVariableOp(resource=self.resource_handle, value=zeros)

    def read(self):
        """All of it. Cheap only where nothing but `assign` writes: otherwise this copies."""
        value = tf.raw_ops.ReadVariableOp(resource=self.resource_handle, dtype=self.dtype)
        value.set_shape(self.shape)
        return value

    def assign(self, value):
        """Replaces all of it, in one op that happens whole or not at all."""
        return tf.raw_ops.AssignVariableOp(resource=self.resource_handle, value=value)

    def rows(self, indices):
        """Rows at `indices`, of any shape, along the first axis."""
        found = tf.raw_ops.ResourceGather(
            resource=self.resource_handle, indices=indices, dtype=self.dtype
        )
        found.set_shape([*indices.shape, *self.shape[1:]])
        return found

    def put_rows(self, indices, rows):
        """Replaces rows (n, ...) at `indices` (n,) int."""
        return tf.raw_ops.ResourceScatterUpdate(
            resource=self.resource_handle, indices=indices, updates=rows
        )

    def at(self, indices):
        """Entries at `indices` (..., n): rows, columns and so on in the last axis."""
        found = tf.raw_ops.ResourceGatherNd(
            resource=self.resource_handle, indices=indices, dtype=self.dtype
        )
        found.set_shape([*indices.shape[:-1], *self.shape[indices.shape[-1] :]])
        return found

    def put_at(self, indices, entries):
        """Replaces the entries at `indices` (..., n)."""
        return tf.raw_ops.ResourceScatterNdUpdate(
            ref=self.resource_handle, indices=indices, updates=entries
        )
