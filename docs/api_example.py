"""lungtl from Python: compose a config, open its dataset, train, load the model, predict a volume.

`python docs/api_example.py` takes less than a minute and writes to ./data.
"""

import lungtl

# A tiny run on synthetic CTs, without MLflow. Without these overrides it is the run of `make demo`.
TINY = [
    "dataset.scans=16", "dataset.matrix=64", "image.size=64", "trainer.max_epochs=3",
    "evaluation.untrained=false", "evaluation.figures=false", "tracking=none",
]  # fmt: skip


def main() -> None:
    """Train a model and predict one of its test scans."""
    config = lungtl.compose(["dataset=phantom", "aggregator=attention", *TINY])

    store = lungtl.open_store(config)
    print(store.bags[["patient_id", "bag_label", "n_slices"]].head())

    result = lungtl.run(config)
    print(result.metrics["bag"]["metrics"]["auroc"])
    print(result.predictions[["patient_id", "label", "probability"]])

    model = lungtl.load(result.folder)
    volume_hu = store.voxels(result.predictions["bag_id"][0])  # any array [z, y, x] in HU
    prediction = model.predict(volume_hu, spacing_mm=1.0)
    print(f"probability of malignancy: {prediction.probability:.3f}")
    print(prediction.slices.nlargest(3, "weight"))


if __name__ == "__main__":
    main()
