"""Exporting models to ``torch.export`` programs and ONNX files."""
