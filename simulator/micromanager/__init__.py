"""Any guarded microscope behind Micro-Manager's API, for scripts written for pycromanager."""
