"""Histories: what happens to services, servers and topics over time, by chance, and a model of what must be.

A history is a seed, or what is left of one when every step that does not matter is taken out. It is carried
out with real processes on a real server, or with buses that share a hub in memory. At the end everybody is
given time. Then the model lists the valid fates of each accepted event for each group that it was due to.
They are: handled, a dead letter, counted as lost, or waiting for someone who runs or is named by health.

=============  ========================================================================================
``steps``      what a history is made of: plain values that can be printed and read again
``making``     makes a history from a seed
``player``     a bus in a process, and what it is told to do
``troupe``     starts, asks, kills and freezes players
``places``     where it takes place: a server of its own, or memory
``looking``    what is kept on a server, read without the adapter
``model``      what is due to whom, and what may have become of it
``acting``     carries out the steps
``ending``     lets everybody finish, and judges
``shrinking``  takes steps out for as long as it still fails
``running``    several side by side, and what is printed of them
``planted``    bugs that histories must find
=============  ========================================================================================
"""
