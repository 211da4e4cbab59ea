"""The stock server's switch for XLA, which is off there unless a flag turns it on."""

import ctypes
import logging
import os

import tensorflow as tf

log = logging.getLogger(__name__)


def disable() -> bool:
    """Makes this process answer calls that XLA would compile with INTERNAL `XLA compilation
    disabled`. There is no way back.

    Returns:
      False if this TensorFlow has no such switch; then a model may run here that a stock server
      refuses.
    """
    library = os.path.join(os.path.dirname(tf.__file__), "libtensorflow_cc.so.2")
    try:
        switch = ctypes.CDLL(library)._ZN10tensorflow21DisableXlaCompilationEv
    except (OSError, AttributeError):
        log.warning("TensorFlow %s has no switch for XLA compilation: a model that needs it runs "
                    "here, but not on a stock server", tf.__version__)  # fmt: skip
        return False
    switch.restype = None
    switch()
    return True
