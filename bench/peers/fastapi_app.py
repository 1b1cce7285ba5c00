"""The peer fastapi: the connection manager from FastAPI's documentation, with which many Python backends begin.

The code follows https://fastapi.tiangolo.com/advanced/websockets/#handling-disconnections-and-multiple-clients, but
sends JSON instead of text. It has one list of connections, and calls `send_json` for each subscriber and message.
"""

from fastapi import FastAPI, Request, WebSocket, WebSocketDisconnect

app = FastAPI()


class ConnectionManager:
    def __init__(self):
        self.active_connections: list[WebSocket] = []

    async def connect(self, websocket: WebSocket):
        await websocket.accept()
        self.active_connections.append(websocket)
        await websocket.send_json({"type": "connection_ack"})

    def disconnect(self, websocket: WebSocket):
        self.active_connections.remove(websocket)

    async def broadcast(self, message: dict):
        for connection in self.active_connections:
            await connection.send_json(message)


manager = ConnectionManager()


@app.post("/api/publish")
async def publish(request: Request):
    await manager.broadcast(await request.json())
    return {"accepted": 1}


@app.websocket("/api/ws")
async def subscribe(websocket: WebSocket):
    await manager.connect(websocket)
    try:
        while True:
            await websocket.receive_text()
    except WebSocketDisconnect:
        manager.disconnect(websocket)
