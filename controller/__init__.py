"""What runs at the microscope: the closed loop, its guard, its models and its records.

Start reading at :mod:`controller.session`; the types that everything shares are in
:mod:`controller.core`.
"""
