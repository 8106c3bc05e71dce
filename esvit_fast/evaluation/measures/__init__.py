"""The mathematics of protocols: features, or networks and views, to numbers."""
