"""Signs of trouble in a run, seen early: from the rows of its files to findings."""

from visual_r1.alarms.finding import ALARMS, AlarmName, Finding
from visual_r1.alarms.watch import CATALOGUE, Alarm, look

__all__ = ["ALARMS", "CATALOGUE", "Alarm", "AlarmName", "Finding", "look"]
