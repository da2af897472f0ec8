"""Synthetic chest CTs around the real LIDC annotations, written as DICOM series.

For trying, testing and timing lungtl without the 133 GB of LIDC-IDRI. The geometry, the identifiers and the
nodules are LIDC's; every voxel is invented, so no number computed on it says anything about patients.
"""

from lungtl.sources.phantom.choose import ScanPlan, choose_scans
from lungtl.sources.phantom.recipe import PhantomRecipe
from lungtl.sources.phantom.render import render
from lungtl.sources.phantom.write import write_phantom, write_series

__all__ = ["PhantomRecipe", "ScanPlan", "choose_scans", "render", "write_phantom", "write_series"]
