"""The backend that compiles through Apache TVM; the only package that imports TVM."""
