"""MetaPoison (Huang et al. 2020): poisons crafted through unrolled steps of many networks that are being trained."""
