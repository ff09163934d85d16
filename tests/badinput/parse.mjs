// Parses event streams with eventsource-parser: each line of stdin is a JSON array of base64 pieces of one stream, each
// line of stdout the JSON array of what was found in it.
import { createInterface } from "node:readline";
import { createParser } from "eventsource-parser";

for await (const line of createInterface({ input: process.stdin })) {
  const found = [];
  const parser = createParser({
    onEvent: ({ id, event, data }) => found.push({ id, event, data }),
    onRetry: (retry) => found.push({ retry }),
    onError: (error) => found.push({ error: String(error) }),
  });
  const decoder = new TextDecoder();
  for (const piece of JSON.parse(line)) {
    parser.feed(decoder.decode(Buffer.from(piece, "base64"), { stream: true }));
  }
  process.stdout.write(JSON.stringify(found) + "\n");
}
