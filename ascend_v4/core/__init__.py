"""The pure middle: options and catalog in, one validated launch plan out. No I/O."""
