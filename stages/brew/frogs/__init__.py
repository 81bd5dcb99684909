"""Poison Frogs (Shafahi et al. 2018): base images that collide with the target in the space of features."""
