// Serves a gallery with the headers that the server sends.
import { createServer } from 'node:http'
import { readFileSync } from 'node:fs'
import { join, normalize } from 'node:path'

export async function serve (gallery) {
  const { headers } = JSON.parse(readFileSync(join(gallery, 'index.json'), 'utf8'))
  const server = createServer((request, response) => {
    const path = normalize(new URL(request.url, 'http://here').pathname)
    // Where a page that leads on would lead: the browser stays on it.
    if (path === '/elsewhere') return response.writeHead(204).end()
    try {
      const body = readFileSync(join(gallery, path))
      response.writeHead(200, path.endsWith('.css')
        ? { 'content-type': 'text/css; charset=utf-8', 'x-content-type-options': 'nosniff', 'cache-control': 'max-age=60' }
        : headers)
      response.end(body)
    } catch {
      response.writeHead(404).end()
    }
  })
  await new Promise(resolve => server.listen(0, '127.0.0.1', resolve))
  return {
    origin: `http://127.0.0.1:${server.address().port}`,
    close: () => { server.close(); server.closeAllConnections() }
  }
}
