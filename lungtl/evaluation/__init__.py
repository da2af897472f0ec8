"""Metrics with patient-level intervals, trivial controls, paired tests and figures. No torch here.

Arguments of these names mean the same everywhere, and invalid ones are refused with a LungtlError (see `checks`):

- labels: int [N], 0 or 1, of bags or slices.
- probabilities: float [N] in [0, 1], of the positive class.
- patient_ids: one id per row; rows of one patient may be correlated.
- threshold: rows with at least this probability are called positive.
- resamples: of the patients, for bootstrapped 95 % intervals; 0 for none.
- seed: of these resamples.
"""
