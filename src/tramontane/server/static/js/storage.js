// Conversations and the texts of attached documents, in the browser's database. Other tabs hear of changes.

const channel = "BroadcastChannel" in self ? new BroadcastChannel("tramontane.conversations") : null;
let database = null;
const inMemory = { conversations: new Map(), documents: new Map() }; // where the browser has no database for us

/** Open the database; false when the browser forbids it, and everything lasts only until the page is closed. */
export async function openStorage() {
  try {
    database = await new Promise((resolve, reject) => {
      const request = indexedDB.open("tramontane", 1);
      request.onupgradeneeded = () => {
        request.result.createObjectStore("conversations", { keyPath: "id" });
        request.result.createObjectStore("documents", { keyPath: "id" });
      };
      request.onsuccess = () => resolve(request.result);
      request.onerror = () => reject(request.error);
      request.onblocked = () => reject(new Error("the database is in use by an older page"));
    });
    database.onversionchange = () => database.close();
    return true;
  } catch {
    database = null;
    return false;
  }
}

export function onOtherTab(listener) {
  if (channel) channel.onmessage = ({ data }) => listener(data);
}

export function loadAll(kind) {
  if (!database) return Promise.resolve([...inMemory[kind].values()]);
  return finish(database.transaction(kind).objectStore(kind).getAll());
}

export function load(kind, id) {
  if (!database) return Promise.resolve(inMemory[kind].get(id));
  return finish(database.transaction(kind).objectStore(kind).get(id));
}

/** Ids of all records. */
export function loadIds(kind) {
  if (!database) return Promise.resolve([...inMemory[kind].keys()]);
  return finish(database.transaction(kind).objectStore(kind).getAllKeys());
}

export async function save(kind, record) {
  if (!database) inMemory[kind].set(record.id, structuredClone(record));
  else await change(kind, (records) => records.put(record));
  channel?.postMessage({ kind, id: record.id });
}

export async function remove(kind, id) {
  if (!database) inMemory[kind].delete(id);
  else await change(kind, (records) => records.delete(id));
  channel?.postMessage({ kind, id });
}

/** Waits for the end of the transaction: only then does the change outlast the page. */
function change(kind, make) {
  return new Promise((resolve, reject) => {
    const transaction = database.transaction(kind, "readwrite");
    transaction.oncomplete = () => resolve();
    transaction.onabort = () => reject(transaction.error);
    make(transaction.objectStore(kind));
  });
}

function finish(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}
