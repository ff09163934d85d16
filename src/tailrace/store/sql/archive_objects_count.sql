-- How many objects are kept.
select count(*)
from tailrace.archive_objects as objects
where objects.state = 'stored'
