"""Model files: a model as other programs keep it: GGUF, an Ollama Modelfile, a directory without an adapter."""
