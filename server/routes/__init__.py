"""The routes, one blueprint per noun. They decode, call one thing and shape its answer; rules live elsewhere."""
