"""One file per source of images, named as `data.source` says; it defines one subclass of `rsd.sources.base.Source`."""
