"""The service on Ray Serve: an ingress of any number, pools of workers that scale apart, and who calls them."""
