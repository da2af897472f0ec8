"""lungtl: how ImageNet features transfer to chest CT, slice by slice, scan by scan.

Importing this package costs nothing: the heavy libraries are imported where they are used.
"""

__version__ = "0.1.0"
