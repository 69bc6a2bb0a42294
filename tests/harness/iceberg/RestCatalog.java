import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;
import java.io.IOException;
import java.net.InetSocketAddress;
import java.net.URLDecoder;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.CopyOnWriteArrayList;
import java.util.concurrent.Executors;
import org.apache.hadoop.conf.Configuration;
import org.apache.iceberg.BaseTable;
import org.apache.iceberg.CatalogUtil;
import org.apache.iceberg.TableMetadata;
import org.apache.iceberg.TableOperations;
import org.apache.iceberg.catalog.Catalog;
import org.apache.iceberg.catalog.Namespace;
import org.apache.iceberg.catalog.SupportsNamespaces;
import org.apache.iceberg.catalog.TableIdentifier;
import org.apache.iceberg.exceptions.AlreadyExistsException;
import org.apache.iceberg.exceptions.BadRequestException;
import org.apache.iceberg.exceptions.CommitFailedException;
import org.apache.iceberg.exceptions.NamespaceNotEmptyException;
import org.apache.iceberg.exceptions.NoSuchNamespaceException;
import org.apache.iceberg.exceptions.NoSuchTableException;
import org.apache.iceberg.exceptions.UnprocessableEntityException;
import org.apache.iceberg.exceptions.ValidationException;
import org.apache.iceberg.rest.CatalogHandlers;
import org.apache.iceberg.rest.Endpoint;
import org.apache.iceberg.rest.RESTSerializers;
import org.apache.iceberg.rest.requests.CommitTransactionRequest;
import org.apache.iceberg.rest.requests.CreateNamespaceRequest;
import org.apache.iceberg.rest.requests.CreateTableRequest;
import org.apache.iceberg.rest.requests.RegisterTableRequest;
import org.apache.iceberg.rest.requests.RenameTableRequest;
import org.apache.iceberg.rest.requests.UpdateNamespacePropertiesRequest;
import org.apache.iceberg.rest.requests.UpdateTableRequest;
import org.apache.iceberg.rest.responses.ConfigResponse;
import org.apache.iceberg.rest.responses.ErrorResponse;
import org.apache.iceberg.shaded.com.fasterxml.jackson.annotation.JsonAutoDetect;
import org.apache.iceberg.shaded.com.fasterxml.jackson.annotation.PropertyAccessor;
import org.apache.iceberg.shaded.com.fasterxml.jackson.databind.DeserializationFeature;
import org.apache.iceberg.shaded.com.fasterxml.jackson.databind.ObjectMapper;
import org.apache.iceberg.shaded.com.fasterxml.jackson.databind.PropertyNamingStrategies;

/**
 * A REST catalog on 127.0.0.1 whose answers are those of Iceberg's own handlers, over another
 * catalog of Iceberg's. It asks nobody who they are. Below /single it is one without commits of
 * several tables. GET /-/told/{namespace} tells how many tables each commit was of.
 */
public final class RestCatalog {
  private static final ObjectMapper JSON = new ObjectMapper();
  private static final List<Endpoint> SINGLE =
      List.of(
          Endpoint.V1_LIST_NAMESPACES,
          Endpoint.V1_LOAD_NAMESPACE,
          Endpoint.V1_NAMESPACE_EXISTS,
          Endpoint.V1_CREATE_NAMESPACE,
          Endpoint.V1_UPDATE_NAMESPACE,
          Endpoint.V1_DELETE_NAMESPACE,
          Endpoint.V1_LIST_TABLES,
          Endpoint.V1_LOAD_TABLE,
          Endpoint.V1_TABLE_EXISTS,
          Endpoint.V1_CREATE_TABLE,
          Endpoint.V1_UPDATE_TABLE,
          Endpoint.V1_DELETE_TABLE,
          Endpoint.V1_RENAME_TABLE,
          Endpoint.V1_REGISTER_TABLE,
          Endpoint.V1_REPORT_METRICS);
  private static final List<Endpoint> ALL = new ArrayList<>(SINGLE);

  private final Catalog catalog;
  private final SupportsNamespaces namespaces;
  private final Map<Namespace, List<Integer>> told = new ConcurrentHashMap<>();

  private RestCatalog(Catalog catalog) {
    this.catalog = catalog;
    this.namespaces = (SupportsNamespaces) catalog;
  }

  /** Arguments: port, the catalog's name, its properties as name=value. */
  public static void main(String[] arguments) throws Exception {
    JSON.setVisibility(PropertyAccessor.FIELD, JsonAutoDetect.Visibility.ANY);
    JSON.configure(DeserializationFeature.FAIL_ON_UNKNOWN_PROPERTIES, false);
    JSON.setPropertyNamingStrategy(new PropertyNamingStrategies.KebabCaseStrategy());
    RESTSerializers.registerAll(JSON);
    ALL.add(Endpoint.V1_COMMIT_TRANSACTION);
    Map<String, String> properties = new HashMap<>();
    for (int at = 2; at < arguments.length; at++) {
      String[] parts = arguments[at].split("=", 2);
      properties.put(parts[0], parts[1]);
    }
    RestCatalog rest =
        new RestCatalog(
            CatalogUtil.buildIcebergCatalog(arguments[1], properties, new Configuration()));
    int port = Integer.parseInt(arguments[0]);
    HttpServer server = HttpServer.create(new InetSocketAddress("127.0.0.1", port), 0);
    server.setExecutor(Executors.newCachedThreadPool());
    server.createContext("/", rest::serve);
    server.start();
  }

  private void serve(HttpExchange exchange) throws IOException {
    int status = 200;
    Object answer;
    byte[] body = exchange.getRequestBody().readAllBytes();
    try {
      answer = answer(exchange.getRequestMethod(), exchange.getRequestURI().getRawPath(),
          query(exchange.getRequestURI().getRawQuery()), body);
      status = answer == null ? 204 : 200;
    } catch (Exception error) {
      status = status(error);
      if (status == 500) {
        error.printStackTrace();
      }
      answer = ErrorResponse.builder().responseCode(status)
          .withType(error.getClass().getSimpleName()).withMessage(String.valueOf(error.getMessage()))
          .build();
    }
    boolean empty = answer == null || exchange.getRequestMethod().equals("HEAD");
    byte[] bytes = empty ? new byte[0] : JSON.writeValueAsBytes(answer);
    exchange.getResponseHeaders().set("Content-Type", "application/json");
    exchange.sendResponseHeaders(status, empty ? -1 : bytes.length);
    exchange.getResponseBody().write(bytes);
    exchange.close();
  }

  /** The answer; null: there is nothing to say. */
  private Object answer(String method, String path, Map<String, String> query, byte[] body)
      throws IOException {
    boolean single = path.startsWith("/single/");
    path = single ? path.substring("/single".length()) : path;
    String[] parts = path.substring(1).split("/");
    String kind = parts.length < 2 ? "" : parts[1];
    if (path.startsWith("/-/told/")) {
      return told.getOrDefault(namespace(parts[2]), List.of());
    }
    if (kind.equals("config")) {
      List<Endpoint> endpoints = single ? SINGLE : ALL;
      return ConfigResponse.builder().withEndpoints(endpoints).build();
    }
    if (path.equals("/v1/transactions/commit") && !single) {
      commitTogether(JSON.readValue(body, CommitTransactionRequest.class));
      return null;
    }
    if (path.equals("/v1/tables/rename")) {
      CatalogHandlers.renameTable(catalog, JSON.readValue(body, RenameTableRequest.class));
      return null;
    }
    if (!kind.equals("namespaces")) {
      throw new NoSuchTableException("no such path: %s", path);
    }
    Namespace namespace = parts.length < 3 ? Namespace.empty() : namespace(parts[2]);
    String below = parts.length < 4 ? "" : parts[3];
    switch (parts.length) {
      case 2:
        return namespaces(method, query, body);
      case 3:
        return namespace(method, namespace);
      case 4:
        return inNamespace(method, namespace, below, body);
      case 5:
        return table(method, TableIdentifier.of(namespace, decoded(parts[4])), query, body);
      default:
        // Metrics of a scan, which nobody reads.
        return null;
    }
  }

  /** All or none: nobody else changes tables of the catalog below. */
  private synchronized void commitTogether(CommitTransactionRequest request) {
    List<Runnable> commits = new ArrayList<>();
    for (UpdateTableRequest change : request.tableChanges()) {
      TableOperations table = ((BaseTable) catalog.loadTable(change.identifier())).operations();
      TableMetadata base = table.current();
      change.requirements().forEach(requirement -> requirement.validate(base));
      TableMetadata.Builder next = TableMetadata.buildFrom(base);
      change.updates().forEach(update -> update.applyTo(next));
      TableMetadata built = next.build();
      commits.add(() -> table.commit(base, built));
    }
    commits.forEach(Runnable::run);
    tell(request.tableChanges().get(0).identifier().namespace(), commits.size());
  }

  private void tell(Namespace namespace, int tables) {
    told.computeIfAbsent(namespace, any -> new CopyOnWriteArrayList<>()).add(tables);
  }

  private synchronized Object commit(TableIdentifier table, UpdateTableRequest request) {
    Object answer = CatalogHandlers.updateTable(catalog, table, request);
    tell(table.namespace(), 1);
    return answer;
  }

  private Object namespaces(String method, Map<String, String> query, byte[] body)
      throws IOException {
    if (method.equals("GET")) {
      String parent = query.get("parent");
      return CatalogHandlers.listNamespaces(
          namespaces, parent == null ? Namespace.empty() : namespace(parent));
    }
    return CatalogHandlers.createNamespace(
        namespaces, JSON.readValue(body, CreateNamespaceRequest.class));
  }

  private Object namespace(String method, Namespace namespace) {
    switch (method) {
      case "GET":
        return CatalogHandlers.loadNamespace(namespaces, namespace);
      case "HEAD":
        CatalogHandlers.namespaceExists(namespaces, namespace);
        return null;
      default:
        CatalogHandlers.dropNamespace(namespaces, namespace);
        return null;
    }
  }

  private Object inNamespace(String method, Namespace namespace, String below, byte[] body)
      throws IOException {
    switch (below) {
      case "properties":
        return CatalogHandlers.updateNamespaceProperties(
            namespaces, namespace, JSON.readValue(body, UpdateNamespacePropertiesRequest.class));
      case "register":
        return CatalogHandlers.registerTable(
            catalog, namespace, JSON.readValue(body, RegisterTableRequest.class));
      default:
        if (method.equals("GET")) {
          return CatalogHandlers.listTables(catalog, namespace);
        }
        CreateTableRequest create = JSON.readValue(body, CreateTableRequest.class);
        return create.stageCreate()
            ? CatalogHandlers.stageTableCreate(catalog, namespace, create)
            : CatalogHandlers.createTable(catalog, namespace, create);
    }
  }

  private Object table(
      String method, TableIdentifier table, Map<String, String> query, byte[] body)
      throws IOException {
    switch (method) {
      case "GET":
        return CatalogHandlers.loadTable(catalog, table);
      case "POST":
        return commit(table, JSON.readValue(body, UpdateTableRequest.class));
      case "HEAD":
        CatalogHandlers.tableExists(catalog, table);
        return null;
      default:
        if ("true".equalsIgnoreCase(query.get("purgeRequested"))) {
          CatalogHandlers.purgeTable(catalog, table);
        } else {
          CatalogHandlers.dropTable(catalog, table);
        }
        return null;
    }
  }

  /** As the specification has them. */
  private static int status(Exception error) {
    if (error instanceof NoSuchTableException || error instanceof NoSuchNamespaceException) {
      return 404;
    }
    if (error instanceof AlreadyExistsException || error instanceof CommitFailedException
        || error instanceof NamespaceNotEmptyException) {
      return 409;
    }
    if (error instanceof ValidationException || error instanceof IllegalArgumentException
        || error instanceof BadRequestException || error instanceof UnprocessableEntityException) {
      return 400;
    }
    return error instanceof UnsupportedOperationException ? 406 : 500;
  }

  private static Map<String, String> query(String raw) {
    Map<String, String> found = new HashMap<>();
    for (String pair : raw == null ? new String[0] : raw.split("&")) {
      String[] parts = pair.split("=", 2);
      found.put(parts[0], parts.length > 1 ? decoded(parts[1]) : "");
    }
    return found;
  }

  private static Namespace namespace(String text) {
    return Namespace.of(decoded(text).split("\u001f"));
  }

  private static String decoded(String text) {
    return URLDecoder.decode(text, StandardCharsets.UTF_8);
  }
}
