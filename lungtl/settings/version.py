"""lungtl's version; apart from the package itself, whose API imports everything else."""

VERSION = "0.1.0"
