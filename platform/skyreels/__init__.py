"""The platform library: configs, storage, commits, media, Ray, MLflow. It knows nothing of any model."""

import os

from skyreels import torchvision_ops

torchvision_ops.install()

# A private Ray cluster stays on loopback: without this Ray turns 127.0.0.1 into the machine's own address. Ray reads
# the variable (its name is historical) when it is imported, so it is set here, before any package of ours does that.
# A cluster that is joined decides for itself.
if not os.environ.get("RAY_ADDRESS"):
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
