"""Carries connections from the host's loopback into the node.

Usage: forward.py FD=ADDRESS:PORT…      accept on the socket FD, and connect to ADDRESS:PORT

The sockets listen in the host's network, where `cluster` opened them; this runs in the node's.
"""

import asyncio
import socket
import sys


async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.write_eof()
    except OSError:
        writer.transport.abort()  # so that the other side hears of it too


async def serve(descriptor: int, address: str, port: int) -> None:
    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, back = await asyncio.open_connection(address, port)
        except OSError:
            writer.transport.abort()
            return
        await asyncio.gather(copy(reader, back), copy(there, writer))
        back.close()
        writer.close()

    server = await asyncio.start_server(carry, sock=socket.socket(fileno=descriptor))
    await server.serve_forever()


async def main(pairs: list[str]) -> None:
    jobs = []
    for pair in pairs:
        descriptor, target = pair.split("=")
        address, port = target.split(":")
        jobs.append(serve(int(descriptor), address, int(port)))
    await asyncio.gather(*jobs)


asyncio.run(main(sys.argv[1:]))
