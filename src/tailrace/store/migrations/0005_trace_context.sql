-- Where in a trace a run was started, as a W3C `traceparent`, so that its worker continues it; null: it is not traced.

alter table tailrace.runs add column traceparent text;
