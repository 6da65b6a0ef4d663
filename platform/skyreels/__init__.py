"""The platform library: configs, storage, commits, media, Ray, MLflow. It knows nothing of any model."""

from skyreels import torchvision_ops

torchvision_ops.install()
