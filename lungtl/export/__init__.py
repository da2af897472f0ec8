"""Write a trained network as one file that runs without lungtl: ONNX, or a program of torch.export."""
